"""Clocks that jump, forward and back: what each thing with a time is worth then, in one table.

A row is a thing, the jumps of the clock after it was got, and what using it gives at the last of them. A jump never makes anything good
that was used, forgotten, or good only later; back at its own time an honest thing is as good as it was.
"""

import asyncio
import contextlib

import hypothesis
import pytest
from hypothesis import strategies as st

from services.gatekeeper import history
from sigilcore import decision, permit, session
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper as contract
from sigilcore.refusals import Code, Refused
from sigilrun import replay
from sigilrun.replay import OnceOnly, Use
from tests import oracle, simulator
from tests.services import test_gatekeeper, test_reviews
from tests.services.test_gatekeeper import WRITE, refused
from tests.simulator import DAY_MS, Person

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
SESSION = session.LONGEST_SESSION_MS
WITHIN = test_reviews.WITHIN_S * SECOND


class World(test_reviews.House):
    """A house that is a day old, so that its clock can go back; nothing is reviewed unless a row asks for it."""

    def __init__(self):
        super().__init__()
        self.review_of()
        self.world.clock.advance(DAY_MS)

    def jump(self, ms):
        self.world.clock.advance(ms)


# Each gives a function that uses the thing.


async def bearer_session(house):
    bob = await house.login(house.bob)
    return lambda: house.authorize(bob, "memory/write", WRITE)


async def mandate(house):
    end_ms = house.world.now_ms + session.CERTIFICATE_MS
    root = await house.login(house.world.root, mutations=("license/revoke",), mutations_not_after_ms=end_ms)
    return lambda: house.authorize(root, "license/revoke")


async def nonce(house):
    asked = test_gatekeeper.opening(house.bob, None, await house.challenge(), None)
    return lambda: house.ask(contract.OPEN, asked)


async def used_nonce(house):
    use = await nonce(house)
    await use()
    return use


async def forgotten_nonce(house):
    use = await used_nonce(house)
    house.jump(3 * MINUTE)
    await house.login(house.bob)
    house.jump(-3 * MINUTE)
    return use


async def proof(house):
    request = house.request(await house.login(house.ada), "memory/list")
    return lambda: house.ask(contract.AUTHORIZE, request)


async def used_proof(house):
    use = await proof(house)
    await use()
    return use


async def forgotten_proof(house):
    ada = await house.login(house.ada)
    request = house.request(ada, "memory/list")
    await house.ask(contract.AUTHORIZE, request)
    house.jump(3 * MINUTE)
    await house.authorize(ada, "memory/list")
    house.jump(-3 * MINUTE)
    return lambda: house.ask(contract.AUTHORIZE, request)


async def a_permit(house):
    answer = await house.authorize(await house.login(house.bob), "memory/write", WRITE)

    async def use():
        house.bound(answer, "memory/write", WRITE)

    return use


async def used_permit(house):
    return await _permit_once(house, 0)


async def forgotten_permit(house):
    return await _permit_once(house, MINUTE)


async def _permit_once(house, away_ms):
    """A permit that a service saw, and its memory after the clock was away and came back; another call came meanwhile."""
    answer = await house.authorize(await house.login(house.bob), "memory/write", WRITE)
    memory = OnceOnly(window_ms=permit.START_WINDOW_MS, limit=9, started_ms=house.world.now_ms)

    def once(one):
        issued_ms = one.not_after_ms - permit.START_WINDOW_MS
        if memory.use(one.permit_id, issued_ms, house.world.now_ms) is not Use.FRESH:
            raise Refused(Code.PERMIT_REPLAYED, "this permit was used before")

    once(house.bound(answer, "memory/write", WRITE).permit)
    house.jump(away_ms)
    other = house.bound(await house.authorize(await house.login(house.bob), "ping"), "ping").permit
    once(other)
    house.jump(-away_ms)

    async def use():
        once(house.bound(answer, "memory/write", WRITE).permit)

    return use


async def a_decision(house):
    granted = house.world.granted(house.bob, "memory/write")

    async def use():
        house.world.place(house.world.memory(granted))

    return use


async def uncommitted_decision(house):
    chain = house.world.judge(house.bob, "memory/write")

    async def use():
        batch = simulator.audit.DecisionBatch(decisions=(decision.freeze(chain),))
        house.world.append("decision_batch", batch, house.world.instances["gatekeeper"])

    return use


async def approval(house):
    house.review_of("memory/write")
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    word = await house.approved(ada, mia)
    return lambda: house.authorize(ada, "memory/write", WRITE, approval=word)


async def approver(house):
    """An approval whose mentor's licence ends before its own time does."""
    house.mia = house.world.issue(Person("meg"), Loa.MENTOR, days=1)
    house.jump(DAY_MS - MINUTE)
    return await approval(house)


async def a_licence(house):
    """Two days of a licence, issued now."""
    eve = house.world.issue(Person("eve", keyed=False), Loa.OPERATOR, days=2)
    return lambda: house.login(eve)


async def shared_read(house):
    """Whether a read still stands on the decision of the first; NOT_YET says that another was made."""
    bob = await house.login(house.bob)
    first = await house.authorize(bob, "memory/list")

    async def use():
        again = await house.authorize(bob, "memory/list")
        if again.decision != first.decision:
            raise Refused(Code.NOT_YET, "decided anew")

    return use


async def full_minute(house):
    """A caller who has called as often as a minute allows."""
    house.gate = house.another(calls_per_minute=2)
    bob = await house.login(house.bob)
    for _ in range(2):
        await house.authorize(bob, "ping")
    return lambda: house.authorize(bob, "ping")


async def signed_proposal(house):
    """A policy that was signed, and is committed at the last."""
    signed = simulator.system.AccessPolicyChange(policy=house.log.state.policy, expires_at=house.world.later(HOUR))
    change = house.world.proposal("access_policy", signed)
    attested = simulator.record.witnessed(
        change, [simulator.record.witness(change, house.world.witness.owner_id, house.world.witness.signer)]
    )

    async def use():
        house.world.place(attested)

    return use


TABLE = [
    (bearer_session, [SESSION - 1], None),
    (bearer_session, [SESSION], Code.SESSION_EXPIRED),
    (bearer_session, [-HOUR], None),
    (bearer_session, [SESSION, -SESSION], None),
    (mandate, [session.CERTIFICATE_MS - 1], None),
    (mandate, [session.CERTIFICATE_MS], Code.OWNER_PROOF_NEEDED),
    (mandate, [-30 * SECOND], None),
    (mandate, [-30 * SECOND - 1], Code.OWNER_PROOF_NEEDED),
    (nonce, [MINUTE], None),
    (nonce, [MINUTE + 1], Code.NONCE_INVALID),
    (nonce, [-1], Code.NONCE_INVALID),
    (nonce, [HOUR, -HOUR], None),
    (used_nonce, [0], Code.NONCE_INVALID),
    (used_nonce, [HOUR], Code.NONCE_INVALID),
    (used_nonce, [-SECOND], Code.NONCE_INVALID),
    (forgotten_nonce, [0], Code.NONCE_INVALID),
    (proof, [30 * SECOND], None),
    (proof, [30 * SECOND + 1], Code.PROOF_STALE),
    (proof, [-30 * SECOND], None),
    (proof, [-30 * SECOND - 1], Code.PROOF_STALE),
    (proof, [HOUR, -HOUR], None),
    (used_proof, [10 * SECOND], Code.PROOF_REPLAYED),
    (used_proof, [-10 * SECOND], Code.PROOF_REPLAYED),
    (forgotten_proof, [0], Code.PROOF_STALE),
    (a_permit, [permit.START_WINDOW_MS], None),
    (a_permit, [permit.START_WINDOW_MS + 1], Code.PERMIT_EXPIRED),
    (a_permit, [-permit.START_WINDOW_MS], None),
    (a_permit, [-permit.START_WINDOW_MS - 1], Code.PERMIT_INVALID),
    (used_permit, [0], Code.PERMIT_REPLAYED),
    (used_permit, [-SECOND], Code.PERMIT_REPLAYED),
    (forgotten_permit, [0], Code.PERMIT_REPLAYED),
    (forgotten_permit, [SECOND], Code.PERMIT_REPLAYED),
    (uncommitted_decision, [2 * SECOND], None),
    (uncommitted_decision, [2 * SECOND + 1], Code.STALE_DECISION),
    (uncommitted_decision, [-2 * SECOND - 1], Code.STALE_DECISION),
    (a_decision, [MINUTE], None),
    (a_decision, [MINUTE + 1], Code.DECISION_UNKNOWN),
    (a_decision, [-MINUTE], None),
    (a_decision, [-MINUTE - 1], Code.DECISION_UNKNOWN),
    (a_decision, [HOUR, -HOUR], None),
    (approval, [WITHIN - 1], None),
    (approval, [WITHIN], Code.APPROVAL_EXPIRED),
    (approval, [-MINUTE], None),
    (approver, [MINUTE - SECOND], None),
    (approver, [MINUTE], Code.APPROVER_INVALID),
    (approver, [MINUTE, -MINUTE], None),
    (a_licence, [2 * DAY_MS - 1], None),
    (a_licence, [2 * DAY_MS], Code.LICENSE_INVALID),
    (a_licence, [-1], Code.LICENSE_INVALID),
    (a_licence, [2 * DAY_MS, -2 * DAY_MS], None),
    (shared_read, [MINUTE - 1], None),
    (shared_read, [MINUTE], Code.NOT_YET),
    (shared_read, [-1], Code.NOT_YET),
    (full_minute, [MINUTE - 1], Code.RATE_LIMITED),
    (full_minute, [MINUTE], None),
    (full_minute, [-HOUR], Code.RATE_LIMITED),  # and a minute later not: below
    (signed_proposal, [HOUR - 1], None),
    (signed_proposal, [HOUR], Code.PROPOSAL_EXPIRED),
]


@pytest.mark.parametrize(
    ("thing", "jumps", "code"), TABLE, ids=[f"{thing.__name__} {jumps} {code}" for thing, jumps, code in TABLE]
)
async def test_after_the_clock_jumped(thing, jumps, code):
    """Good exactly as long as it says, whichever way the clock went."""
    house = World()
    use = await thing(house)
    for ms in jumps:
        house.jump(ms)
    if code is None:
        await use()
        return
    with pytest.raises(Refused) as caught:
        await use()
    assert caught.value.code is code, caught.value


# What is used once

WINDOW = 10 * SECOND
offsets = st.integers(-2, 2).map(lambda halves: halves * WINDOW // 2) | st.integers(-WINDOW, WINDOW)
places = st.integers(0, 99)
Step = st.one_of(
    st.tuples(st.just("on"), st.integers(0, 2 * WINDOW), st.just(0)),
    st.tuples(st.just("jump"), st.integers(-40, 40).map(lambda windows: windows * WINDOW), offsets),
    st.tuples(st.just("fresh"), st.just(0), st.just(0) | offsets),
    st.tuples(st.just("again"), places, st.none() | offsets),  # now, or when the clock shows its time again
)


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(st.lists(Step, max_size=60), st.integers(2, 4) | st.just(replay.MOST_RANGES))
def test_nothing_is_used_twice_and_what_is_new_is_fresh(steps, most):
    """Against a memory of everything: no id twice, whatever the clock did; and one dated now at once, unless the clock went back to where
    it had been, or before this memory began."""
    started = now = DAY_MS
    memory = OnceOnly(window_ms=WINDOW, limit=1_000, started_ms=started)
    used: list[tuple[str, int]] = []
    been: list[int] = [started]  # what the clock showed before it last jumped
    shown, went_back = [now], False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "MOST_RANGES", most)
        for number, (what, value, offset) in enumerate(steps):
            name, time_ms = used[value % len(used)] if used else ("", now)
            if offset is not None and what != "fresh":
                before, now = now, (time_ms if what == "again" else now + value) + offset
                if not 0 <= now - before <= 2 * WINDOW:
                    been, shown, went_back = been + shown, [], went_back or now < before
                shown.append(now)
                memory.ask("", now, now)  # so that it sees the clock
            if what == "fresh":
                answer = memory.use(str(number), now + offset, now)
                if answer is Use.FRESH:
                    used.append((str(number), now + offset))
                elif offset == 0 and most == replay.MOST_RANGES:
                    assert went_back
                    assert now < started or any(abs(now - ms) <= 3 * WINDOW for ms in been)
            elif what == "again" and used:
                assert memory.use(name, time_ms, now) is not Use.FRESH


def test_a_clock_that_ran_ahead_closes_only_what_it_showed():
    """After a year of nights and a memory full of gaps: an hour ahead with calls, then back, and all is open but the minutes shown."""
    now, number = DAY_MS, 0
    memory = OnceOnly(window_ms=WINDOW, limit=1_000, started_ms=now)

    def calls(every_ms, times):
        nonlocal now, number
        for _ in range(times):
            now, number = now + every_ms, number + 1
            assert memory.use(str(number), now, now) is Use.FRESH, number

    for _ in range(365):
        calls(MINUTE, 20)
        now += 12 * HOUR
    calls(SECOND, 100)
    now += HOUR
    calls(MINUTE, 30)
    now -= HOUR
    calls(MINUTE, 20)
    now += 11 * MINUTE
    assert memory.use("shown", now, now) is Use.STALE
    now += 30 * MINUTE
    calls(SECOND, 100)


def test_a_clock_that_was_set_back_fills_no_memory():
    """What was accepted ahead is forgotten by a clock that is behind, too: a full memory is one of the last windows."""
    now = DAY_MS
    memory = OnceOnly(window_ms=WINDOW, limit=50, started_ms=0)
    for number in range(1_000):
        now += SECOND - (DAY_MS // 2 if number == 10 else 0)
        assert memory.use(str(number), now, now) is Use.FRESH, number


# What counts


async def test_a_full_minute_of_a_clock_that_was_set_back_is_over_in_a_minute():
    """Calls that lie ahead count as of now: for a minute of the new time, and not until the clock has caught up."""
    house = World()
    use = await full_minute(house)
    house.jump(-HOUR)
    for _ in range(2):
        with refused(Code.RATE_LIMITED):
            await use()
        house.jump(MINUTE - 1)
    house.jump(1 - MINUTE + 1)
    await use()
    holds(house)


async def test_an_ordinary_rate_after_a_clock_was_set_back():
    """Hours that are shown again count no call twice; Root revokes all the while, and the ledger replays."""
    house = World()
    house.gate = house.another(calls_per_minute=40, braking_reserve=1)
    bob, root = await house.login(house.bob), await house.login(house.world.root)
    house.jump(DAY_MS)
    for back_ms in (0, HOUR, 3 * HOUR, 2 * SECOND):
        house.jump(-back_ms)
        bob, root = await house.login(house.bob), await house.login(house.world.root)
        for _ in range(20):
            house.jump(4 * SECOND)
            await house.authorize(bob, "ping")
            await house.authorize(root, "license/revoke", owner=True)
    holds(house)


async def test_a_clock_that_was_ahead_while_nothing_could_be_recorded():
    """The log doesn't show where the gate's clock was meanwhile; its rates are still what the log shows."""
    house = World()
    bob = await house.login(house.bob)
    for _ in range(3):
        await house.authorize(bob, "memory/write", WRITE)
    house.jump(HOUR)
    house.log.broken = Refused(Code.UNAVAILABLE, "no answer in time")
    with refused(Code.GATE_FAULT):
        await house.authorize(bob, "memory/write", WRITE)
    house.log.broken = None
    house.jump(-HOUR)
    await house.authorize(bob, "memory/write", WRITE)
    holds(house)


def holds(house):
    """The ledger replays, and the gate says of everybody what the log says."""
    report = oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)
    for owner in ("ada", "bob", "root"):
        assert house.gate.desk.standing(owner) == house.world.standings.at(owner, house.world.now_ms), owner
    return report


# Whole days of it


async def test_a_house_whose_clock_ran_ahead_opens_at_once_when_it_is_corrected():
    """An hour ahead, for longer than any window, with calls and logins; then right again: everybody works, Root revokes, and nothing that
    was used counts again, neither now nor when its time has come."""
    house = World()
    heard = []

    async def works():
        how = {"not_after_ms": house.world.now_ms + SESSION}
        ada, root = await house.login(house.ada, **how), await house.login(house.world.root, **how)
        for request in (
            house.request(ada, "memory/list"),
            house.request(ada, "memory/write", WRITE),
            house.request(root, "license/revoke", owner=True),
        ):
            await house.ask(contract.AUTHORIZE, request)
            heard.append(request)

    async def stays_used():
        for request in heard:
            with pytest.raises(Refused) as caught:
                await house.ask(contract.AUTHORIZE, request)
            assert caught.value.code in {Code.PROOF_STALE, Code.PROOF_REPLAYED}

    await works()
    house.jump(HOUR)
    for _ in range(10):
        await works()
        house.jump(30 * SECOND)
    house.jump(-HOUR)
    for _ in range(10):
        await works()
        await stays_used()
        house.jump(30 * SECOND)
    house.jump(49 * MINUTE)
    await works()
    for _ in range(30):
        house.jump(15 * SECOND)
        await stays_used()
    house.jump(2 * MINUTE)
    await works()
    holds(house)


async def test_calls_of_one_record_count_for_each_other_wherever_the_clock_went_while_they_waited():
    """Two calls an hour apart by a clock that jumped, judged together: the second's rate knows of the first."""
    house = World()
    bob = await house.login(house.bob)
    house.log.gate = Door()
    calls = [asyncio.create_task(house.authorize(bob, "memory/write", WRITE))]
    await house.log.gate.reached.wait()
    for _ in range(3):
        calls.append(asyncio.create_task(house.authorize(bob, "memory/write", WRITE)))
        await asyncio.sleep(0)
        house.jump(HOUR)
    house.log.gate.set()
    await asyncio.gather(*calls)
    assert [len(batch.decisions) for batch in house.log.payloads("decision_batch")][-2:] == [1, 3]
    holds(house)


async def test_a_gate_that_begins_reads_what_counts_and_hears_of_each_call_once(monkeypatch):
    """Of a hundred hours the last third, though the clock was set back by years meanwhile; and the last minute's calls as they were."""
    monkeypatch.setattr(history, "PAGE", 3)
    house = World()
    for hour in range(100):
        house.world.granted(house.bob, "ping")
        house.jump(HOUR if hour != 95 else -20 * HOUR)
    for _ in range(9):
        house.world.granted(house.bob, "ping")
    read, log = [], house.log.history

    async def spied(first, limit):
        read.append(first)
        return await log(first, limit)

    house.log.history = spied
    house.gate = house.another()
    await house.gate.history.catch_up()
    size = len(house.world.log)
    assert house.gate.desk.calls_last_minute(house.bob.licence_id) == 9
    assert size - 109 // 2 - 20 < min(read[1:]) < size - 32 - 9
    holds(house)


FAR = 3 * DAY_MS
SCRIPTS = {
    "back, then restored": ["deny", -FAR, "call", FAR, "restart", "call"],
    "back, a restart, then restored, and a restart": ["deny", -FAR, "restart", "call", FAR, "restart", "call"],
    "ahead at a restart, then corrected": ["deny", FAR, "restart", -FAR + MINUTE, "restart", "call"],
    "ahead at a restart, then corrected without one": [
        "deny",
        FAR,
        "call",
        "restart",
        "call",
        -FAR + MINUTE,
        "restart",
        "call",
    ],
    "denied ahead": [FAR, "deny", -FAR, "call", HOUR, "restart", "call"],
    "denied back": [-FAR, "deny", FAR, "call", HOUR, "restart", "call"],
    "back for a day and more": ["deny", -FAR, *["call", HOUR] * 40, FAR - 40 * HOUR, "restart", "call"],
    "to and fro": [
        "deny",
        *[-FAR + HOUR, "call", FAR + HOUR, "call"] * 12,
        "restart",
        "call",
        -2 * HOUR,
        "restart",
        "call",
    ],
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_a_gate_knows_what_the_log_says_wherever_the_clock_went(script, monkeypatch):
    """After any jumps and restarts a standing is the replay's, the ledger replays, and Root revokes."""
    monkeypatch.setattr(history, "PAGE", 3)
    house = World()
    house.jump(19 * DAY_MS)
    for step in script:
        if isinstance(step, int):
            house.jump(step)
        elif step == "restart":
            house.gate = house.another()
            house.jump(SECOND)
        else:
            ada, root = await house.login(house.ada), await house.login(house.world.root)
            for _ in range(10 if step == "deny" else 2):
                with refused(Code.LOA_TOO_LOW) if step == "deny" else contextlib.nullcontext():
                    await house.authorize(ada, "license/list" if step == "deny" else "memory/list")
                house.jump(7 * SECOND)
            await house.authorize(root, "license/revoke", owner=True)
            assert house.gate.desk.standing("ada") == house.world.standings.at("ada", house.world.now_ms)
    holds(house)


# What waits


class Door(asyncio.Event):
    """What a call waits at, and a sign that it does."""

    def __init__(self):
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self):
        self.reached.set()
        return await super().wait()


async def test_a_session_that_ends_while_its_calls_wait_gets_nothing():
    """Neither the call whose decision is being written gets a permit, nor the one behind it a decision."""
    house = World()
    bob = await house.login(house.bob)
    house.jump(SESSION - 1)
    house.log.gate = Door()
    first = asyncio.create_task(house.authorize(bob, "memory/write", WRITE))
    await house.log.gate.reached.wait()
    second = asyncio.create_task(house.authorize(bob, "memory/write", WRITE))
    await asyncio.sleep(0)
    house.jump(1)
    house.log.gate.set()
    ended = await asyncio.gather(first, second, return_exceptions=True)
    assert [refusal.code for refusal in ended] == [Code.SESSION_EXPIRED, Code.SESSION_EXPIRED]
    assert len(house.log.judged("memory/write")) == 1
