"""The writer's rules, asked as its callers ask it, on the canon in memory: the very committer and readers, without bus and Postgres."""

import asyncio
import os

import msgspec
import pytest
import pytest_asyncio

from services.canon_writer import committer, laws, memory, rules
from services.canon_writer.reading import Viewer
from sigilcore import (
    canonical,
    checkpoint,
    clock,
    decision,
    digest,
    ids,
    merkle,
    note,
    policy,
    record,
    signing,
    tiles,
    verify,
)
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue, knowledge
from sigilcore.records import audit, system, user
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.canonworld import TOKEN, World, code_of
from tests.simulator import Person

ROOT = Viewer(owner="root", loa=Loa.ROOT)
MENTOR = Viewer(owner="mia", loa=Loa.MENTOR)
ADA = Viewer(owner="ada", loa=Loa.OPERATOR)
OBSERVER = Viewer(owner="otto", loa=Loa.OBSERVER)


class Founded:
    """A world and its canon in memory, with one operator."""

    def __init__(self) -> None:
        self.world = World()
        self.commits: list[committer.Committed] = []

    async def start(self, disk=None, **options):
        self.canon = await memory.MemoryCanon.start(
            signer=self.world.writer,
            deployment=self.world.deployment,
            clock=self.world.clock,
            disk=disk,
            on_commit=self.commits.append,
            **options,
        )
        return self.canon

    async def settle(self):
        self.ada = self.world.issue(Person("ada"), Loa.OPERATOR)
        await self.world.send(self.canon)

    async def restart(self, **options):
        await self.canon.stop()
        return await self.start(self.canon.store.disk, **options)

    async def everything(self):
        page = await self.canon.reading.events(canon.Events(first=0, limit=2000))
        return page.items

    async def granted(self, command="memory/write", **changes):
        """A decision of the gate for Ada's call, committed."""
        made = self.world.granted(self.ada, command, **changes)
        await self.world.send(self.canon)
        return made

    async def call(self, *records, decision=None):
        return await self.world.call(self.canon, *records, decision=decision)


@pytest_asyncio.fixture(loop_scope="session")
async def house():
    """A founded house; whatever a test did, the whole ledger is re-verified afterwards."""
    made = Founded()
    await made.start()
    await made.settle()
    yield made
    await made.canon.stop()
    oracle.check(await made.everything(), made.canon.writer.head.note, made.world.state.genesis_hash)


def session(world, number=0, **changes):
    """An audit record of the gatekeeper's that needs no decision."""
    payload = audit.SessionClosed(session_id=ids.new(), owner_id=f"owner-{number}")
    signer = world.instances["gatekeeper"]
    fields = {
        "id": ids.new(),
        "tenant": "default",
        "ts": clock.format_ms(world.now_ms),
        "space": "audit",
        "signer": signer,
        "salt": os.urandom(16),
        "prev": world.state.chains.get(signer.key_id),
    }
    return record.build("session_closed", payload, **(fields | changes))


def chained(world, count):
    """So many audit records, each continuing the one before."""
    made = []
    for number in range(count):
        prev = {"prev": record.open_header(bytes(made[-1].header))[0].hash} if made else {}
        made.append(session(world, number, **prev))
    return made


# Bootstrap


async def test_before_genesis_nothing_is_taken():
    """Any append is answered NOT_BOOTSTRAPPED, and nothing is written."""
    made = Founded()
    await made.start()
    with pytest.raises(Refused) as refused:
        await made.canon.append(canon.Append(records=(made.world.log[1],)))
    assert refused.value.code is Code.NOT_BOOTSTRAPPED
    assert made.canon.writer.head.size == 0
    await made.canon.stop()


async def test_genesis_needs_the_token_and_this_deployment():
    """A wrong token, another deployment's runtime, keys or log: BOOTSTRAP_REFUSED each, and the door stays open for the right one."""
    made = Founded()
    await made.start()
    good = made.world.genesis
    payload = record.check(good.record).payload
    others = [
        msgspec.structs.replace(good, token="another"),
        *(
            _genesis(made.world, msgspec.structs.replace(payload, **change))
            for change in (
                {"runtime_id": ids.new()},
                {"services": {**payload.services, "license": made.world.root.signer.public_key.hex()[::-1]}},
                {"services": {name: key for name, key in payload.services.items() if name != "quorum"}},
                {"log": World().deployment.log},
                {"bootstrap_token_hash": "1" * 64},
            )
        ),
    ]
    for other in others:
        with pytest.raises(Refused) as refused:
            await made.canon.bootstrap(other)
        assert refused.value.code in {Code.BOOTSTRAP_REFUSED, Code.WEAK_KEY}, refused.value
    assert made.canon.writer.head.size == 0
    assert (await made.canon.bootstrap(good)).results[0].seq == 0
    await made.canon.stop()


def _genesis(world, payload):
    signed = record.build(
        "genesis",
        payload,
        id=ids.new(),
        tenant="default",
        ts=clock.format_ms(world.now_ms),
        space="system",
        signer=world.root.signer,
        salt=os.urandom(16),
    )
    return canon.BootstrapAppend(token=TOKEN, record=signed)


async def test_genesis_is_signed_by_the_root_it_names():
    """Another key's signature over genesis is refused."""
    made = Founded()
    await made.start()
    payload = record.check(made.world.genesis.record).payload
    made.world.root.signer = Person("mallory").signer
    with pytest.raises(Refused) as refused:
        await made.canon.bootstrap(_genesis(made.world, payload))
    assert refused.value.code is Code.KEY_NOT_ALLOWED
    await made.canon.stop()


async def test_bootstrap_again_is_answered_with_the_same_place_and_only_for_the_same_bytes(house):
    """The same genesis: its first place. Another one, with the right token: ALREADY_BOOTSTRAPPED."""
    again = await house.canon.bootstrap(house.world.genesis)
    assert (again.results[0].seq, again.results[0].existing) == (0, True)
    other = _genesis(house.world, record.check(house.world.log[0]).payload)
    with pytest.raises(Refused) as refused:
        await house.canon.bootstrap(other)
    assert refused.value.code is Code.ALREADY_BOOTSTRAPPED


# Group commit


async def test_calls_that_queue_are_committed_together(house):
    """While one commit is in flight the others queue; the next takes them all, and each gets a receipt that verifies."""
    records = [house.world.memory(await house.granted(), f"key-{number}") for number in range(40)]
    before = len(house.commits)
    answers = await asyncio.gather(*(house.call(one) for one in records))
    assert [code_of(answer) for answer in answers] == [None] * 40
    assert len({answer.results[0].seq for answer in answers}) == 40
    assert len(house.commits) - before <= 2


async def test_a_commit_takes_no_more_than_its_bound(house):
    """More than `batch_records` at once are split into several commits, in order."""
    await house.restart(bounds=committer.Bounds(batch_records=10))
    records = [house.world.memory(await house.granted(), f"key-{number}") for number in range(25)]
    before = len(house.commits)
    answers = await asyncio.gather(*(house.call(one) for one in records))
    seqs = [answer.results[0].seq for answer in answers]
    assert seqs == sorted(seqs)
    assert all(len(commit.rows) <= 10 for commit in house.commits[before:])


async def test_a_full_queue_answers_busy_at_once(house):
    """Beyond the bound nobody waits: BUSY, and those before are served."""
    await house.restart(bounds=committer.Bounds(waiting_records=3))
    records = [house.world.memory(await house.granted(), f"key-{number}") for number in range(6)]
    answers = await asyncio.gather(*(house.call(one) for one in records), return_exceptions=True)
    busy = [one for one in answers if isinstance(one, Refused)]
    assert [one.code for one in busy] == [Code.BUSY] * 3
    assert all(one.results[0].refusal is None for one in answers if not isinstance(one, Refused))


async def test_a_full_queue_keeps_room_for_what_brakes_and_takes_it_first(house):
    """With every place taken a closing still gets in, before all that waits; and its room is bounded too."""
    await house.restart(bounds=committer.Bounds(waiting_records=3, reserved_records=1))
    records = [house.world.memory(await house.granted(), f"key-{number}") for number in range(4)]
    closing, another = (closed(house.world) for _ in range(2))
    answers = await asyncio.gather(*(house.call(one) for one in (*records, closing, another)), return_exceptions=True)
    *placed, refused_memory, brake, refused_brake = answers
    assert [one.code for one in (refused_memory, refused_brake)] == [Code.BUSY] * 2
    assert brake.results[0].seq < min(one.results[0].seq for one in placed)


def closed(world: World) -> record.SignedRecord:
    """The end of a session, as the gatekeeper would write it next."""
    signer = world.instances["gatekeeper"]
    return record.build(
        "session_closed",
        audit.SessionClosed(session_id=ids.new(), owner_id="ada"),
        id=ids.new(),
        tenant="default",
        ts=clock.format_ms(world.clock.now_ms()),
        space="audit",
        signer=signer,
        salt=os.urandom(16),
        prev=world.state.chains[signer.key_id],
    )


async def test_a_caller_who_gave_up_holds_nobody_back(house):
    """A cancelled call is forgotten; the others of its batch are committed."""
    first, second = [house.world.memory(await house.granted(), f"key-{number}") for number in range(2)]
    gone = asyncio.create_task(house.canon.append(canon.Append(records=(first,))))
    await asyncio.sleep(0)
    gone.cancel()
    answer = await house.call(second)
    assert code_of(answer) is None


# Idempotency


async def test_the_same_bytes_again_are_answered_with_the_first_place(house):
    """Also long after, also though its decision is used and its prev is old; and the old leaf is proven anew."""
    signed = house.world.memory(await house.granted())
    first = await house.call(signed)
    for number in range(150):
        house.world.remember(house.ada, f"other-{number}")
    await house.world.send(house.canon)
    again = await house.call(signed)
    assert (again.results[0].seq, again.results[0].existing) == (first.results[0].seq, True)
    assert again.proofs[0].size > first.proofs[0].size


async def test_a_rebuilt_record_of_the_same_call_is_answered_with_the_first_place(house):
    """Same id, owner, command and parameters, though judged and built anew: one effect."""
    name = ids.new()
    first = await house.call(house.world.memory(await house.granted(), id=name))
    rebuilt = house.world.memory(await house.granted(), id=name)
    answer = await house.call(rebuilt)
    assert (answer.results[0].seq, answer.results[0].existing) == (first.results[0].seq, True)
    assert answer.results[0].hash == first.results[0].hash


async def test_another_record_under_a_taken_id_is_refused(house):
    """Same id, other parameters: ID_TAKEN, and nothing is written."""
    name = ids.new()
    granted = await house.granted()
    await house.call(house.world.memory(granted, id=name))
    other = house.world.memory(await house.granted(), "other", id=name, request=_request(granted, b"other"))
    size = house.canon.writer.head.size
    answer = await house.canon.append(canon.Append(records=(other,)))
    assert code_of(answer) == "ID_TAKEN"
    assert house.canon.writer.head.size == size


def _request(granted, parameters):
    return decision.Request(
        command=granted.command,
        salt=granted.salt,
        digest=granted.digest,
        parameters=digest.sha256_hex(parameters),
    )


async def test_a_rebuilt_record_is_answered_only_to_a_key_that_may_speak(house):
    """A stranger who repeats somebody's call under the same id learns nothing."""
    name = ids.new()
    granted = await house.granted()
    await house.call(house.world.memory(granted, id=name))
    stranger = house.world.memory(granted, id=name, signer=Person("mallory").signer)
    answer = await house.canon.append(canon.Append(records=(stranger,)))
    assert code_of(answer) == "KEY_NOT_ALLOWED"


async def test_the_same_record_twice_in_one_batch_is_one_record(house):
    """Doubles in flight together, and doubles within a call, get one place."""
    signed = house.world.memory(await house.granted())
    size = house.canon.writer.head.size
    answers = await asyncio.gather(*(house.call(signed) for _ in range(5)))
    assert {answer.results[0].seq for answer in answers} == {size}
    assert sorted(answer.results[0].existing for answer in answers) == [False, True, True, True, True]
    signed = house.world.memory(await house.granted(), "second")
    answer = await house.call(signed, signed)
    assert [result.existing for result in answer.results] == [False, True]


# Signatures, checked as calls come


async def test_a_key_that_ends_between_arrival_and_turn_speaks_no_more(house):
    """The signature was found good when the call came; the key was revoked before its turn: KEY_NOT_ALLOWED."""
    call = rules.open_call(canon.Append(records=(session(house.world),)))
    proven = rules.proven(call, house.canon.writer.state)
    assert proven.checked[0].proven == house.world.instances["gatekeeper"].public_key
    house.world.revoke_key(house.world.instances["gatekeeper"])
    await house.world.send(house.canon)
    assert _drafted(house, proven) is Code.KEY_NOT_ALLOWED


def _drafted(house, call):
    """Why the next commit refuses this call's one record; a refused call moves nothing."""
    writer = house.canon.writer
    draft = rules.Draft(writer.state, writer.head.size, rules.Found(), house.world.now_ms, house.world.deployment)
    (result,) = draft.take(call)
    return result.refusal.code


async def test_a_proof_by_one_key_says_nothing_for_another(house):
    """A record that bears another key's proof has its signature checked anew, and fails."""
    call = rules.open_call(canon.Append(records=(session(house.world),)))
    (good,) = call.checked
    header = msgspec.structs.replace(good.header, sig=signing.signature_text(bytes(64)))
    forged = msgspec.structs.replace(good, header=header, proven=house.world.instances["license"].public_key)
    assert _drafted(house, msgspec.structs.replace(call, records=(forged,))) is Code.SIGNATURE_INVALID


async def test_a_bad_signature_is_told_in_its_place(house):
    """It is found when the call comes, and refused when its turn comes, after what is asked first."""
    good = session(house.world)
    header = record.open_header(bytes(good.header))[0]
    bad = msgspec.structs.replace(header, sig=signing.signature_text(bytes(64)))
    forged = msgspec.structs.replace(good, header=msgspec.Raw(canonical.of(bad)))
    call = rules.proven(rules.open_call(canon.Append(records=(forged,))), house.canon.writer.state)
    assert call.checked[0].proven == b""
    assert code_of(await house.canon.append(canon.Append(records=(forged,)))) == "SIGNATURE_INVALID"


# Decisions


async def test_a_decision_admits_one_call(house):
    """A second call with the same decision is refused, in the same batch and in a later one."""
    granted = await house.granted()
    first, second, third = (house.world.memory(granted, f"key-{number}") for number in range(3))
    answers = await asyncio.gather(house.call(first), house.call(second))
    assert [code_of(answer) for answer in answers] == [None, "DECISION_USED"]
    assert code_of(await house.call(third)) == "DECISION_USED"


async def test_a_call_may_hold_several_effects_of_its_decision(house):
    """One decision, one call, all its effects; the mark of use is the first one's id."""
    granted = await house.granted()
    records = [house.world.memory(granted, f"key-{number}") for number in range(3)]
    answer = await house.call(*records)
    assert [code_of(answer, index) for index in range(3)] == [None] * 3
    assert len(answer.proofs) == 1
    row = house.canon.store.disk.decisions[granted.decision.record, 0]
    assert row.used_by == answer.results[0].id


async def test_effects_of_one_decision_stand_side_by_side(house):
    """Between two effects of a decision nothing else may stand, or who replays the log couldn't tell them from a second use."""
    granted, other = await house.granted(), await house.granted()
    first, between, last = (
        house.world.memory(granted, "a"),
        house.world.memory(other, "b"),
        house.world.memory(granted, "c"),
    )
    answer = await house.call(first, between, last)
    assert [code_of(answer, index) for index in range(3)] == [None, None, "DECISION_USED"]


async def test_a_decision_survives_a_restart_of_the_writer(house):
    """What is used stays used, and what isn't can be used, though no memory of it is left."""
    used, unused = await house.granted(), await house.granted()
    await house.call(house.world.memory(used))
    await house.restart()
    assert code_of(await house.call(house.world.memory(used, "other"))) == "DECISION_USED"
    assert code_of(await house.call(house.world.memory(unused, "other"))) is None


async def test_in_user_a_bad_record_is_refused_alone(house):
    """One bad record among good ones: it is refused with its reason, the others stand, their decision is used once."""
    granted = await house.granted()
    good, bad, last = (
        house.world.memory(granted, "a"),
        house.world.memory(granted, "b", owner="root"),
        house.world.memory(granted, "c"),
    )
    answer = await house.call(good, bad, last)
    assert [code_of(answer, index) for index in range(3)] == [None, "DECISION_MISMATCH", None]


async def test_a_link_that_is_no_decision_harms_nobody_else(house):
    """A malformed reference is refused alone; the rest of its batch is committed."""
    granted = await house.granted()
    strange = house.world.memory(granted, links=(record.Link(label="decision", target="z" * 36 + ".0"),))
    answers = await asyncio.gather(house.call(strange), house.call(house.world.memory(granted)))
    assert [code_of(answer) for answer in answers] == ["DECISION_UNKNOWN", None]


# Things and chains


async def test_prev_names_the_newest_version_of_the_thing(house):
    """A version on an older head is refused with the head; two in one batch: the second is stale; another owner's key is another thing."""
    first = house.world.memory(await house.granted())
    await house.call(first)
    head = record.open_header(bytes(first.header))[0].hash
    stale = await house.call(house.world.memory(await house.granted(), prev=None))
    assert code_of(stale) == "STALE_PREV"
    assert stale.results[0].refusal.detail == {"head": head}
    two = [house.world.memory(await house.granted(), text=str(number), prev=head) for number in range(2)]
    answers = await asyncio.gather(*(house.call(one) for one in two))
    assert [code_of(answer) for answer in answers] == [None, "STALE_PREV"]
    await house.restart()
    assert code_of(await house.call(house.world.memory(await house.granted(), prev=head))) == "STALE_PREV"


async def test_a_call_of_audit_records_stands_or_falls_whole(house):
    """One bad link in the chain: the record at fault has its reason, the others name it, nothing moved; the corrected call stands."""
    records = chained(house.world, 5)
    broken = [*records[:3], session(house.world, 9, prev="0" * 64), records[4]]
    size = house.canon.writer.head.size
    answer = await house.call(*broken)
    assert [code_of(answer, index) for index in range(5)] == [*["BATCH_REFUSED"] * 3, "STALE_PREV", "BATCH_REFUSED"]
    assert answer.results[0].refusal.detail["index"] == 3
    assert answer.results[0].refusal.detail["code"] == "STALE_PREV"
    assert house.canon.writer.head.size == size
    answer = await house.call(*records)
    assert [result.seq for result in answer.results] == list(range(size, size + 5))


async def test_a_refused_call_leaves_the_state_as_it_was(house):
    """Sessions that a refused call would have closed stay open, and calls of the same batch are judged without it."""
    good, bad = chained(house.world, 2), [*chained(house.world, 2), session(house.world, prev="1" * 64)]
    closed = dict(house.canon.writer.state.closed_sessions)
    answers = await asyncio.gather(house.call(*bad), house.call(*good))
    assert code_of(answers[0]) == "BATCH_REFUSED"
    assert code_of(answers[1]) is None
    assert len(house.canon.writer.state.closed_sessions) == len(closed) + 2


async def test_a_malformed_record_is_named_and_takes_its_call_with_it(house):
    """A byte changed in one payload: RECORD_INVALID there, BATCH_REFUSED elsewhere."""
    records = chained(house.world, 3)
    payload = bytes(records[1].payload).replace(b"owner-1", b"owner-9")
    records[1] = msgspec.structs.replace(records[1], payload=msgspec.Raw(payload))
    answer = await house.call(*records)
    assert [code_of(answer, index) for index in range(3)] == ["BATCH_REFUSED", "RECORD_INVALID", "BATCH_REFUSED"]


async def test_a_record_from_the_future_is_refused(house):
    """`ts` stands for the writer's clock when the log is judged again, so it can't lie ahead of it."""
    ahead = session(house.world, ts=clock.format_ms(house.world.now_ms + 3_000))
    assert code_of(await house.call(ahead)) == "RECORD_INVALID"


async def test_a_decision_batch_bears_the_time_of_its_decisions(house):
    """A batch that says another time than its decisions would be refused by whoever replays the log: it is refused at once."""
    chain = house.world.judge(house.ada, "memory/write")
    payload = audit.DecisionBatch(decisions=(decision.freeze(chain),))
    signer = house.world.instances["gatekeeper"]
    batch = record.build(
        "decision_batch",
        payload,
        id=ids.new(),
        tenant="default",
        ts=clock.format_ms(house.world.now_ms - 5_000),
        space="audit",
        signer=signer,
        salt=os.urandom(16),
        prev=house.world.state.chains[signer.key_id],
    )
    assert code_of(await house.call(batch)) == "STALE_DECISION"


async def test_a_record_is_admissible_by_its_own_time_too(house):
    """By its own `ts` it is judged when the log is read again: what had not begun by then, or had ended, isn't let in, or the log would
    stop replaying there. The fixture replays it."""
    world = house.world
    world.clock.advance(60_000)
    mentor, voice = world.issue(Person("mia"), Loa.MENTOR), Person("mia")
    await world.send(house.canon)
    for ts_ms, ends_ms, code in (
        (-30_000, 60_000, "LICENSE_INVALID"),
        (1_500, 1_000, "PROPOSAL_EXPIRED"),
        (0, 1, None),
    ):
        change = world.enrolment(mentor, voice.signer, expires_at=world.later(ends_ms))
        signed = world.attested(world.proposal("trusted_witness", change, ts=world.later(ts_ms)), voice)
        assert code_of(await house.call(signed)) == code
    granted = await house.granted()
    world.clock.advance(max(60_000, catalogue.COMMANDS["memory/write"].longest_run_s * 1000) - 500)
    assert code_of(await house.call(world.memory(granted, ts=world.later(1_500)))) == "DECISION_UNKNOWN"
    assert code_of(await house.call(world.memory(granted))) is None


async def test_a_decision_is_not_ahead_of_the_log(house):
    """A position that the gate can't have seen would hide that the law had moved."""
    world = house.world
    chain = world.judge(house.ada, "memory/write", as_of=len(world.log) + 1)
    batch = audit.DecisionBatch(decisions=(decision.freeze(chain),))
    answer = await house.call(world.signed_by(world.instances["gatekeeper"], "decision_batch", batch))
    assert (code_of(answer), answer.results[0].refusal.field) == (
        "RECORD_INVALID",
        "$.payload.decisions[0].chain.as_of",
    )


async def test_an_effect_links_its_decision_or_is_named_by_it(house):
    """That a call names the decision is said to the writer and written nowhere: who reads the log again must find it by the record."""
    granted = await house.granted()
    answer = await house.call(house.world.memory(granted, links=()), decision=granted.decision)
    assert code_of(answer) == "DECISION_MISMATCH"
    name = ids.new()
    granted = await house.granted(parameters=msgspec.json.encode({"id": name}))
    assert code_of(await house.call(house.world.memory(granted, links=(), id=name), decision=granted.decision)) is None


async def test_two_calls_that_name_one_record_are_told_apart_again(house):
    """The writer hears by which of them a person's record comes; who replays the log, as the fixture does, finds it."""
    value, naming = house.world.finished(house.ada)
    mine = await house.granted("canon/user/write", parameters=naming)
    await house.granted("memory/write", parameters=naming)
    assert code_of(await house.call(value, decision=mine.decision)) is None


async def test_a_person_writes_nothing_after_the_licence_was_revoked(house):
    """Also by a decision of just before: outside consumers, who see no decisions, hold a person's record to the licence."""
    value, naming = house.world.finished(house.ada)
    granted = await house.granted("canon/user/write", parameters=naming)
    house.world.revoke(house.ada)
    await house.world.send(house.canon)
    assert code_of(await house.call(value, decision=granted.decision)) == "KEY_NOT_ALLOWED"


async def test_what_no_column_holds_is_refused_alone(house):
    """A subject with a zero byte, or one too long to be indexed, is refused before it could spoil its batch."""
    for owner in ("a\x00b", "a" * 600):
        payload = audit.SessionClosed(session_id=ids.new(), owner_id=owner)
        strange = session(house.world)
        signer = house.world.instances["gatekeeper"]
        strange = record.build(
            "session_closed",
            payload,
            id=ids.new(),
            tenant="default",
            ts=clock.format_ms(house.world.now_ms),
            space="audit",
            signer=signer,
            salt=os.urandom(16),
            prev=house.world.state.chains[signer.key_id],
        )
        answers = await asyncio.gather(
            house.call(strange), house.call(house.world.memory(await house.granted(), owner[:1]))
        )
        assert code_of(answers[0]) == "RECORD_INVALID"
        assert code_of(answers[1]) in {None, "STALE_PREV"}


# Crashes, as the store's seam tells of them


class Flaky(memory.MemoryStore):
    """Fails at the commit: before it was durable, or after."""

    def __init__(self, disk):
        super().__init__(disk)
        self.fail = ""
        self.down = 0
        self.asked = 0

    async def standing(self, ids, things):
        self.asked += 1
        return await super().standing(ids, things)

    async def open(self):
        if self.down:
            self.down -= 1
            raise laws.Lost("the store is down")
        await super().open()

    async def commit(self, batch):
        fail, self.fail = self.fail, ""
        if fail == "lost before":
            raise laws.Lost("connection reset")
        if fail == "moved":
            raise laws.Moved("somebody else wrote")
        if fail == "ours":
            raise RuntimeError("a fault of ours")
        await super().commit(batch)
        if fail == "lost after":
            raise laws.Lost("connection reset")


async def flaky(house, **bounds):
    await house.canon.stop()
    store = Flaky(house.canon.store.disk)
    writer = committer.Committer(
        store,
        signer=house.world.writer,
        deployment=house.world.deployment,
        clock=house.world.clock,
        bounds=committer.Bounds(retry_first_s=0.001, **bounds),
        on_commit=house.commits.append,
    )
    await writer.load()
    house.canon = memory.MemoryCanon(writer, store, house.world.log_key)
    house.canon._task = asyncio.create_task(writer.run())
    return store


@pytest.mark.parametrize("fail", ["lost before", "lost after", "moved"])
async def test_whatever_becomes_of_the_commit_each_call_is_answered_once_and_truly(house, fail):
    """Failed and not persisted, failed but persisted, refused by the store: every record stands once, every receipt verifies."""
    store = await flaky(house)
    records = [house.world.memory(await house.granted(), f"key-{number}") for number in range(5)]
    audits = chained(house.world, 3)
    store.fail, store.down = fail, 2
    size = house.canon.writer.head.size
    answers = await asyncio.gather(*(house.call(one) for one in records), house.call(*audits))
    placed = sorted(result.seq for answer in answers for result in answer.results)
    assert placed == list(range(size, size + 8))
    assert store.fail == ""


@pytest.mark.parametrize("ahead", [False, True])
async def test_what_the_writer_remembers_of_ids_is_what_stands(house, ahead):
    """It holds few, and after a restart reads them: every record sent again has its first place, new ones go by without a question to the
    store, and many ids of a far future only bring the questions back."""
    store = await flaky(house, recent=4)
    sent = []
    for number in range(12):
        future = {"id": f"7fffffff-ffff-7fff-bfff-{number:012}"} if ahead and number >= 8 else {}
        sent.append(session(house.world, number, **future))
        await house.call(sent[-1])
    assert store.asked == 0
    again = [(await house.call(one)).results[0] for one in sent]
    assert all(result.existing for result in again)
    assert [result.seq for result in again] == list(range(again[0].seq, house.canon.writer.head.size))
    store = await flaky(house, recent=4)
    await house.call(*chained(house.world, 2))
    assert (store.asked == 0) is not ahead
    assert [(await house.call(one)).results[0] for one in sent] == again


async def test_a_fault_of_ours_is_a_fault_and_the_next_call_is_served(house):
    """The callers of the batch hear a fault; memory is loaded anew, and the same bytes are taken then."""
    store = await flaky(house)
    signed = house.world.memory(await house.granted())
    store.fail = "ours"
    with pytest.raises(RuntimeError):
        await house.call(signed)
    assert code_of(await house.call(signed)) is None


async def test_nobody_waits_without_a_bound_for_a_store_that_is_down(house):
    """UNAVAILABLE, and said that the outcome is unknown; once the store is back, the same bytes find their place."""
    store = await flaky(house, wait_s=0.01, retry_most_s=0.02)
    signed = house.world.memory(await house.granted())
    store.fail, store.down = "lost after", 10
    with pytest.raises(Refused) as refused:
        await house.call(signed)
    assert refused.value.code is Code.UNAVAILABLE
    assert refused.value.detail == {"outcome": "unknown"}
    while store.down:
        await asyncio.sleep(0.005)
    await flaky(house)
    answer = await house.call(signed)
    assert answer.results[0].existing


async def test_a_fenced_writer_stops_for_good(house):
    """After a take-over the old writer answers UNAVAILABLE for ever and wrote nothing."""
    old = house.canon
    signed = house.world.memory(await house.granted())
    await house.start(old.store.disk)
    size = house.canon.writer.head.size
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await old.append(canon.Append(records=(signed,)))
        assert refused.value.code is Code.UNAVAILABLE
    assert old.writer.fenced.is_set()
    assert len(old.store.disk.rows) == size
    await old.stop()
    assert (await house.call(signed)).results[0].seq == size


# Never back


async def _read_only(house, canon_now, reason):
    assert reason in canon_now.writer.read_only
    for action in (
        canon_now.append(canon.Append(records=(house.world.log[-1],))),
        canon_now.bootstrap(house.world.genesis),
    ):
        with pytest.raises(Refused) as refused:
            await action
        assert refused.value.code is Code.READ_ONLY


async def test_a_store_set_back_under_our_feet_is_noticed(house):
    """Fewer records after a reconnection than this process committed: read-only, and bootstrap stays shut."""
    store = await flaky(house)
    signed = house.world.memory(await house.granted())
    whole, backup = store.disk, memory.Disk()
    backup.epoch, backup.rows, backup.notes = whole.epoch, whole.rows[:-1], whole.notes
    backup.ids = {row.id: row for row in backup.rows}
    store.disk = backup
    with pytest.raises(Refused) as refused:
        await house.call(signed)
    assert refused.value.code is Code.READ_ONLY
    await _read_only(house, house.canon, "this process committed")
    assert len(backup.rows) == len(whole.rows) - 1
    store.disk = whole
    await house.restart()


async def test_a_tree_that_the_checkpoint_does_not_sign_is_not_continued(house):
    """A changed leaf near the edge, a changed tile, a missing checkpoint: read-only at the next start, and nothing is written."""
    for number in range(260):
        house.world.remember(house.ada, f"key-{number}")
    await house.world.send(house.canon)
    disk = house.canon.store.disk
    row = disk.rows[-1]
    for spoil, mend in (
        (
            lambda: disk.rows.__setitem__(-1, msgspec.structs.replace(row, header=row.header + b" ")),
            lambda: disk.rows.__setitem__(-1, row),
        ),
        (lambda: disk.tiles.__setitem__((0, 1), bytes(8192)), None),
    ):
        tile = disk.tiles[0, 1]
        spoil()
        broken = await memory.MemoryCanon.start(
            signer=house.world.writer, deployment=house.world.deployment, clock=house.world.clock, disk=disk
        )
        if mend is not None:
            assert broken.writer.read_only is not None
            with pytest.raises(Refused):
                await broken.append(canon.Append(records=(house.world.log[-1],)))
            mend()
        disk.tiles[0, 1] = tile
        await broken.stop()
    await house.restart()
    assert house.canon.writer.read_only is None


async def test_a_forged_governing_record_stops_the_start(house):
    """A licence that somebody slipped into the store is found at the start: nothing is written on such ground."""
    disk = house.canon.store.disk
    index = next(row.seq for row in disk.rows if row.kind == "license_issued" and row.subject == "ada")
    row = disk.rows[index]
    forged = msgspec.structs.replace(row, payload=row.payload.replace(b'"operator"', b'"mentor"'))
    disk.rows[index] = forged
    broken = await memory.MemoryCanon.start(
        signer=house.world.writer, deployment=house.world.deployment, clock=house.world.clock, disk=disk
    )
    assert f"the record at {index}" in broken.writer.read_only
    await broken.stop()
    disk.rows[index] = row
    await house.restart()


# Reading


async def test_a_reader_sees_what_it_may_and_the_rest_is_not_there(house):
    """Own user records; system for all; audit for mentors; everything for root. Hidden and absent are answered alike."""
    mine = house.world.remember(house.ada)
    await house.world.send(house.canon)
    get = house.canon.reading.get
    system, audited = await _ids_of(house, "genesis"), await _ids_of(house, "decision_batch")
    expected = {ROOT: "111", MENTOR: "011", ADA: "110", OBSERVER: "010"}
    for viewer, sees in expected.items():
        for name, visible in zip((mine.core.id, system, audited), sees, strict=True):
            if visible == "1":
                assert (await get(viewer, canon.Get(id=name))).header["core"]["id"] == name
                continue
            with pytest.raises(Refused) as hidden:
                await get(viewer, canon.Get(id=name))
            with pytest.raises(Refused) as absent:
                await get(viewer, canon.Get(id=ids.new()))
            assert hidden.value.answer() == absent.value.answer()


async def _ids_of(house, kind):
    return next(row.id for row in house.canon.store.disk.rows if row.kind == kind)


async def test_a_record_is_found_by_id_hash_and_seq_and_not_beyond_the_head(house):
    """One of three names; none or two of them are BAD_INPUT; beyond the head is refused."""
    reading, size = house.canon.reading, house.canon.writer.head.size
    row = house.canon.store.disk.rows[4]
    views = [
        await reading.get(ROOT, one)
        for one in (canon.Get(id=row.id), canon.Get(hash=row.hash.hex()), canon.Get(seq=4, wait_for=size - 1))
    ]
    assert views[0] == views[1] == views[2]
    assert views[0].payload == msgspec.json.decode(row.payload)
    for request, code in (
        (canon.Get(), Code.BAD_INPUT),
        (canon.Get(id=row.id, seq=4), Code.BAD_INPUT),
        (canon.Get(seq=size), Code.BEYOND_HEAD),
        (canon.Get(seq=4, wait_for=size), Code.BEYOND_HEAD),
    ):
        with pytest.raises(Refused) as refused:
            await reading.get(ROOT, request)
        assert refused.value.code is code


async def test_pages_come_whole_in_order_and_only_with_what_may_be_seen(house):
    """Page by page to the end: every visible record once, none other; filters by kind, space, subject and time hold."""
    for number in range(20):
        house.world.remember(house.ada, f"key-{number}")
    house.world.clock.ms += 1_000
    house.world.remember(house.ada, "late")
    await house.world.send(house.canon)
    rows = house.canon.store.disk.rows
    for viewer, sees in (
        (ROOT, lambda row: True),
        (MENTOR, lambda row: row.space != "user"),
        (ADA, lambda row: row.space != "audit"),
        (OBSERVER, lambda row: row.space == "system"),
    ):
        assert await _all(house, viewer) == [row.seq for row in rows if sees(row)]
    assert await _all(house, ADA, kind="memory_block") == [row.seq for row in rows if row.kind == "memory_block"]
    assert await _all(house, ADA, space="system") == [0]
    assert await _all(house, ROOT, subject="ada", space="user") == [row.seq for row in rows if row.space == "user"]
    late = clock.format_ms(house.world.now_ms)
    assert await _all(house, ADA, since=late, kind="memory_block") == [rows[-1].seq]
    assert await _all(house, ADA, until=late, space="user") == [row.seq for row in rows if row.space == "user"][:-1]
    with pytest.raises(Refused) as refused:
        await house.canon.reading.records(ROOT, canon.ListRecords(cursor="-1"))
    assert refused.value.code is Code.BAD_INPUT


async def _all(house, viewer, **filters):
    found, cursor = [], None
    while True:
        page = await house.canon.reading.records(viewer, canon.ListRecords(limit=7, cursor=cursor, **filters))
        assert not page.corrupt
        found += [item.seq for item in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


async def test_a_decision_is_shown_to_the_one_it_is_about(house):
    """One decision of a batch, by `<record>.<index>`: its owner and mentors see it, nobody else, and nobody below mentor the batch."""
    granted = await house.granted()
    name, reading = granted.decision.record, house.canon.reading
    view = await reading.audit_get(ADA, canon.AuditGet(id=f"{name}.0"))
    assert view.payload["chain"]["audit"]["owner"] == "ada"
    assert view.salt is None
    assert (await reading.audit_get(MENTOR, canon.AuditGet(id=name))).payload["decisions"] == [view.payload]
    for viewer, asked in ((OBSERVER, f"{name}.0"), (ADA, name), (MENTOR, f"{name}.1"), (ROOT, f"{ids.new()}.0")):
        with pytest.raises(Refused) as refused:
            await reading.audit_get(viewer, canon.AuditGet(id=asked))
        assert refused.value.code is Code.NOT_FOUND


async def test_bundles_verify_offline(house):
    """Every kind of author: Root with witnesses, a service, an instance, also after a service's key was rotated."""
    house.world.remember(house.ada)
    house.world.change_policy()
    await house.world.send(house.canon)
    kinds = {}
    for row in house.canon.store.disk.rows:
        kinds[row.kind] = row
    assert {"genesis", "trusted_witness", "quorum_policy", "access_policy", "instance_opened", "memory_block"} <= set(
        kinds
    )
    for kind, row in kinds.items():
        bundle = await house.canon.reading.proof(ROOT, canon.Prove(id=row.id))
        carried = verify.read(msgspec.json.encode(bundle))
        results = verify.verify(carried, house.world.state.genesis_hash)
        assert verify.verified(results), (kind, results)


async def taken(house, person):
    """A value that a person signed and the house took; its id."""
    name, world = ids.new(), house.world
    signed = record.build(
        "user_value",
        user.UserValue(owner=person.owner_id, key="k", value=1, request=None),
        id=name,
        tenant="default",
        ts=world.later(0),
        space="user",
        signer=person.signer,
        salt=os.urandom(16),
    )
    body = msgspec.json.encode(knowledge.UserWrite(record=signed))
    granted = world.granted(person, knowledge.USER_WRITE.name, body)
    await world.send(house.canon)
    await house.call(signed, decision=granted.decision)
    return name


async def test_bundles_of_a_person_who_is_a_witness_or_root_verify(house):
    """Their licence is what lets the key speak there, whatever else the log knows it as."""
    world = house.world
    mia = world.issue(Person("mia"), Loa.MENTOR)
    world.place(world.attested(world.proposal("trusted_witness", world.enrolment(mia, mia.signer)), mia))
    for person in (mia, world.root):
        bundle = await house.canon.reading.proof(ROOT, canon.Prove(id=await taken(house, person)))
        results = verify.verify(bundle, world.state.genesis_hash)
        assert verify.verified(results), results


async def test_bundles_verify_after_root_was_replaced(house):
    """The change, a system record after it, and what a new mentor signed: the licence behind that carries the new Root's signature."""
    world = house.world
    world.change_policy()
    assert world.witness is not None
    changed = world.replace_root(Person("zoe"), world.witness, without_root=True)
    world.root_licence_follows()
    max_ = world.issue(Person("max"), Loa.MENTOR)
    world.change_model()
    name = await taken(house, max_)
    newest = next(row for row in reversed(house.canon.store.disk.rows) if row.space == "system")
    for wanted in (changed.core.id, newest.id, name):
        bundle = await house.canon.reading.proof(ROOT, canon.Prove(id=wanted))
        results = verify.verify(bundle, world.state.genesis_hash)
        assert verify.verified(results), results


async def test_the_log_is_served_in_tiles_and_proven_consistent(house):
    """Tiles and entry bundles of every width up to the head; consistency between sizes; nothing beyond."""
    for number in range(270):
        house.world.remember(house.ada, f"key-{number % 9}")
    await house.world.send(house.canon)
    reading, size = house.canon.reading, house.canon.writer.head.size
    assert size > 2 * tiles.WIDTH
    shown = await reading.checkpoint()
    signed = checkpoint.open_signed(shown.note.encode(), house.world.log_key)
    assert (signed.size, shown.bootstrapped, shown.sealed) == (size, True, False)
    leaves = [merkle.leaf_hash(row.header) for row in house.canon.store.disk.rows]
    for level, index, width in [*tiles.tiles_of(size), (0, 0, 3), (0, 1, 200)]:
        body = (await reading.tile(canon.LogPart(path=tiles.path(level, index, width)))).body
        step = tiles.WIDTH**level
        start = index * tiles.WIDTH
        expected = [merkle.root(leaves[at * step : (at + 1) * step]) for at in range(start, start + width)]
        assert body == b"".join(expected)
    bundle = (await reading.entries(canon.LogPart(path=tiles.path(tiles.ENTRIES, 1)))).body
    assert tiles.parse_bundle(bundle, 256) == [row.header for row in house.canon.store.disk.rows[256:512]]
    for old, new in ((1, size), (255, 256), (257, None), (size, size)):
        proof = await reading.consistency(canon.Consistency(old=old, new=new))
        path = [note.parse_hash(text) for text in proof.hashes]
        root_old, root_new = merkle.root(leaves[:old]), merkle.root(leaves[: proof.new])
        assert merkle.verify_consistency(old, root_old, proof.new, root_new, path)
    for path in ("tile/0/000.p/300", tiles.path(0, 9), tiles.path(1, 0, 9), tiles.path(tiles.ENTRIES, 0)):
        with pytest.raises(Refused) as refused:
            await reading.tile(canon.LogPart(path=path))
        assert refused.value.code is Code.NOT_FOUND
    with pytest.raises(Refused) as refused:
        await reading.consistency(canon.Consistency(old=1, new=size + 1))
    assert refused.value.code is Code.BEYOND_HEAD


async def test_events_are_the_very_records_in_order(house):
    """Pages of all records, or of some kinds; `next` leads to the head, and a start beyond it is refused."""
    rows = house.canon.store.disk.rows
    page = await house.canon.reading.events(canon.Events(first=3, limit=4))
    assert [item.seq for item in page.items] == [3, 4, 5, 6]
    assert (page.head, page.next) == (len(rows), 7)
    assert bytes(page.items[0].header) == rows[3].header
    chosen = await house.canon.reading.events(canon.Events(first=0, kinds=("instance_opened",)))
    assert [item.seq for item in chosen.items] == [row.seq for row in rows if row.kind == "instance_opened"]
    assert chosen.next == len(rows)
    assert (await house.canon.reading.events(canon.Events(first=len(rows)))).items == ()
    with pytest.raises(Refused) as refused:
        await house.canon.reading.events(canon.Events(first=len(rows) + 1))
    assert refused.value.code is Code.BEYOND_HEAD


@pytest.mark.parametrize("where", ["core", "hash", "key_id", "sig", "payload", "salt"])
async def test_a_changed_byte_is_reported_at_its_position_and_nowhere_else(house, where):
    """Whatever is changed in a stored record: that record is corrupt, in full view; all others are shown."""
    house.world.remember(house.ada)
    await house.world.send(house.canon)
    disk = house.canon.store.disk
    row = disk.rows[-2]
    plain = msgspec.json.decode(row.header)
    spoiled = {
        "core": {"header": row.header.replace(b'"tenant":"default"', b'"tenant":"defaulu"')},
        "hash": {"header": row.header.replace(plain["hash"].encode(), plain["hash"][::-1].encode())},
        "key_id": {"header": row.header.replace(plain["key_id"].encode(), plain["key_id"][::-1].encode())},
        "sig": {"header": row.header.replace(plain["sig"].encode(), plain["sig"].swapcase().encode())},
        "payload": {"payload": row.payload.replace(b"ada", b"adb")},
        "salt": {"salt": bytes(16)},
    }[where]
    disk.rows[-2] = msgspec.structs.replace(row, **spoiled)
    assert disk.rows[-2] != row
    fresh = memory.reading.Reading(house.canon.store, lambda: house.canon.writer.state, house.world.log_key)
    page = await fresh.records(ROOT, canon.ListRecords(limit=500))
    assert [corrupt.seq for corrupt in page.corrupt] == [row.seq]
    assert len(page.items) == len(disk.rows) - 1
    with pytest.raises(Refused) as refused:
        await fresh.get(ROOT, canon.Get(seq=row.seq))
    assert refused.value.code is Code.CORRUPT_RECORD
    disk.rows[-2] = row


async def test_a_decision_in_a_changed_batch_is_reported(house):
    """Who may see every decision hears that the batch is corrupt; others, that there is nothing of theirs."""
    granted = await house.granted()
    disk, name = house.canon.store.disk, granted.decision.record
    whole = disk.ids[name]
    for payload in (b"null", whole.payload.replace(b"ada", b"adb")):
        disk.ids[name] = msgspec.structs.replace(whole, payload=payload)
        for viewer, code in ((MENTOR, Code.CORRUPT_RECORD), (ADA, Code.NOT_FOUND)):
            with pytest.raises(Refused) as refused:
                await house.canon.reading.audit_get(viewer, canon.AuditGet(id=f"{name}.0"))
            assert refused.value.code is code


@pytest.mark.parametrize("asked", [canon.ListRecords, canon.History])
@pytest.mark.parametrize("kind", ["\x00", "", "Memory", "a" * 33])
def test_a_kind_that_is_no_tag(asked, kind):
    """Refused by its name: no column holds a zero, and a store that refuses it isn't one that can't be reached."""
    with pytest.raises(msgspec.ValidationError, match=r"\$\.kind"):
        msgspec.convert({"kind": kind}, asked)


@pytest.mark.parametrize("cursor", [str(2**63 - 1), str(2**63), "1000000", "-1", "x"])
async def test_a_cursor_that_nobody_gave(house, cursor):
    """Beyond the log, beyond any column, or no number: said so, and nothing is asked of the store."""
    house.world.remember(house.ada)
    await house.world.send(house.canon)
    with pytest.raises(Refused) as refused:
        await house.canon.reading.history(
            ROOT, canon.History(kind="memory_block", key="mem::ada::note", owner="ada", cursor=cursor)
        )
    assert (refused.value.code, refused.value.field) == (Code.BAD_INPUT, "$.cursor")


async def test_a_log_key_that_the_writer_lacks_stops_nothing(house):
    """Alone or among several changes, a key of the log that the writer's keystore doesn't hold is refused at its place."""
    world = house.world
    world.change_policy()
    await world.send(house.canon)
    stranger = note.VerifierKey.of(world.origin, note.ED25519, signing.Ed25519Signer.generate().public_key)
    change = system.LogKey(vkey=stranger.format(), expires_at=world.later())
    for kind, payload, field in (
        ("log_key", change, "$.payload.vkey"),
        ("changes", world.several(world.new_model(), change), "$.payload.changes[1].payload.vkey"),
    ):
        signed = world.attested(world.proposal(kind, payload), world.witness)
        answer = await house.canon.append(canon.Append(records=(signed,)))
        assert (code_of(answer), answer.results[0].refusal.field) == ("KEY_NOT_ALLOWED", field)


# Versions


async def versions_of(house, viewer, limit=50, **asked):
    """All pages of a history: seqs shown, and places reported."""
    found, corrupt, cursor = [], [], None
    while True:
        page = await house.canon.reading.history(viewer, canon.History(limit=limit, cursor=cursor, **asked))
        found += [item.seq for item in page.items]
        corrupt += [one.seq for one in page.corrupt]
        cursor = page.cursor
        if cursor is None:
            return found, corrupt


async def remembered(house, count, key="thing"):
    """So many versions of one thing, others between them; their seqs, newest first."""
    for number in range(count):
        house.world.remember(house.ada, key, f"text {number}")
        house.world.remember(house.ada, f"other-{number}")
    await house.world.send(house.canon)
    thing = f"mem::ada::{key}"
    return [
        row.seq for row in reversed(house.canon.store.disk.rows) if row.kind == "memory_block" and _key(row) == thing
    ]


def _key(row):
    return msgspec.json.decode(row.payload)["key"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
async def test_a_history_shows_every_version_once_newest_first(house, limit):
    """By kind and key, by any version's id, for a system kind by itself: page by page the same, whatever the page's size."""
    seqs = await remembered(house, 7)
    rows = house.canon.store.disk.rows
    asked = {"kind": "memory_block", "key": "mem::ada::thing"}
    assert await versions_of(house, ADA, limit, **asked) == (seqs, [])
    assert await versions_of(house, ROOT, limit, owner="ada", **asked) == (seqs, [])
    for seq in (seqs[0], seqs[3], seqs[-1]):
        assert await versions_of(house, ADA, limit, id=rows[seq].id) == (seqs, [])
    house.world.change_policy()
    house.world.change_policy(thresholds={"memory/write": 100})
    await house.world.send(house.canon)
    policies = [row.seq for row in reversed(rows) if row.kind == "access_policy"]
    assert len(policies) == 2
    assert await versions_of(house, OBSERVER, limit, kind="access_policy") == (policies, [])
    assert await versions_of(house, OBSERVER, limit, id=rows[policies[1]].id) == (policies, [])


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_a_history_knows_what_one_of_several_changes_was(house, limit):
    """A kind's history shows the records that carry it among others, and no others of those; a difference is against what they set."""
    world, reading, rows = house.world, house.canon.reading, house.canon.store.disk.rows

    def together(version, *others):
        later = world.later()
        rules = policy.AccessPolicy(version=version, rate_limit=700)
        carried = system.AccessPolicyChange(policy=rules, expires_at=later)
        world.change("changes", world.several(carried, *others))

    def key(service):
        public = signing.Ed25519Signer.generate().public_key.hex()
        return system.ServiceKey(service=service, key=public, expires_at=world.later())

    world.change_policy()
    world.change("changes", world.several(key("grid"), key("outside")))
    together("together", world.new_model())
    world.change("changes", world.several(key("grid"), key("outside")))
    world.change_policy(rate_limit=800)
    await world.send(house.canon)
    told = [row.seq for row in reversed(rows) if row.kind in {"access_policy", "changes"}]
    newest, _, carrying, _, oldest = told
    for kind, seqs in (
        ("access_policy", [newest, carrying, oldest]),
        ("model_config", [carrying]),
        ("changes", told[1:4]),
        ("service_key", [told[1], told[3]]),
    ):
        assert await versions_of(house, OBSERVER, limit, kind=kind) == (seqs, []), kind
    assert await versions_of(house, OBSERVER, limit, id=rows[newest].id) == ([newest, carrying, oldest], [])
    found = await reading.diff(OBSERVER, canon.Diff(new=rows[newest].id))
    assert found.old_seq == carrying
    assert {(line.path, line.old, line.new) for line in found.lines} >= {("$.policy.rate_limit", 700, 800)}


async def test_a_cursor_stays_where_it_is_while_others_write(house):
    """New versions between two pages: the pages that follow show what they would have shown, nothing twice, nothing left out."""
    seqs = await remembered(house, 6)
    asked = canon.History(kind="memory_block", key="mem::ada::thing", limit=2)
    first = await house.canon.reading.history(ADA, asked)
    await remembered(house, 3)
    second = await house.canon.reading.history(ADA, msgspec.structs.replace(asked, cursor=first.cursor))
    await remembered(house, 1)
    third = await house.canon.reading.history(ADA, msgspec.structs.replace(asked, cursor=second.cursor, limit=50))
    assert [item.seq for page in (first, second, third) for item in page.items] == seqs
    assert third.cursor is None
    listed = await house.canon.reading.records(ADA, canon.ListRecords(kind="memory_block", limit=3))
    before = {row.seq for row in house.canon.store.disk.rows if row.kind == "memory_block"}
    await remembered(house, 2)
    seen = [item.seq for item in listed.items]
    while listed.cursor is not None:
        listed = await house.canon.reading.records(
            ADA, canon.ListRecords(kind="memory_block", limit=3, cursor=listed.cursor)
        )
        seen += [item.seq for item in listed.items]
    assert seen == sorted(set(seen))
    assert before <= set(seen)


async def test_another_persons_history_is_not_there(house):
    """By id, by key, with a cursor, by difference: answered exactly like a thing that never was; only root sees it."""
    seqs = await remembered(house, 2)
    rows, reading = house.canon.store.disk.rows, house.canon.reading
    asked = {"kind": "memory_block", "key": "mem::ada::thing"}
    hidden = [canon.History(id=rows[seqs[0]].id), canon.History(owner="ada", **asked), canon.History(**asked)]
    absent = [
        canon.History(id=ids.new()),
        canon.History(owner="nobody", **asked),
        canon.History(kind="document", key="none"),
    ]
    for viewer in (OBSERVER, MENTOR):
        answers = [await _refusal(reading.history(viewer, request)) for request in (*hidden, *absent)]
        assert {answer.code for answer in answers} == {Code.NOT_FOUND}
        assert len({msgspec.json.encode(answer.answer()) for answer in answers}) == 1
        pages = [
            await reading.history(viewer, canon.History(owner=owner, cursor=str(seqs[0]), **asked))
            for owner in ("ada", "nobody")
        ]
        assert pages[0] == pages[1]
        assert not pages[0].items
        answer = await _refusal(reading.diff(viewer, canon.Diff(new=rows[seqs[0]].id)))
        assert answer.answer() == answers[0].answer()
    assert (await reading.history(ROOT, hidden[1])).items


async def _refusal(asking):
    with pytest.raises(Refused) as refused:
        await asking
    return refused.value


async def test_a_history_is_asked_for_in_one_way(house):
    """Neither or both of id and kind, a user kind without key, a system kind with one, an audit kind: BAD_INPUT with the field."""
    reading = house.canon.reading
    audited = await _ids_of(house, "decision_batch")
    for asked, field in (
        ({}, "$.kind"),
        ({"id": audited, "kind": "memory_block"}, "$"),
        ({"kind": "memory_block"}, "$.key"),
        ({"kind": "access_policy", "key": "x"}, "$.key"),
        ({"kind": "access_policy", "owner": "ada"}, "$.key"),
        ({"kind": "decision_batch"}, "$.kind"),
        ({"kind": "nonsense"}, "$.kind"),
        ({"id": audited}, "$.id"),
        ({"kind": "genesis", "cursor": "x"}, "$.cursor"),
    ):
        refused = await _refusal(reading.history(ROOT, canon.History(**asked)))
        assert (refused.code, refused.field) == (Code.BAD_INPUT, field), asked


async def test_a_difference_is_of_two_versions_of_one_thing(house):
    """Against the version before, against a named one, of the first version, of a system kind; two things have none."""
    seqs = await remembered(house, 3)
    rows, reading = house.canon.store.disk.rows, house.canon.reading
    newest, middle, oldest = (rows[seq].id for seq in seqs)
    found = await reading.diff(ADA, canon.Diff(new=newest))
    assert (found.old_seq, found.new_seq) == (seqs[1], seqs[0])
    assert canon.Differs(path="$.text", old="text 1", new="text 2") in found.lines
    assert {line.path.split(".")[1] for line in found.lines} == {"text", "request"}
    assert found == await reading.diff(ADA, canon.Diff(new=newest, old=middle))
    back = await reading.diff(ADA, canon.Diff(new=oldest, old=newest))
    assert canon.Differs(path="$.text", old="text 2", new="text 0") in back.lines
    first = await reading.diff(ADA, canon.Diff(new=oldest))
    assert first.old_seq is None
    assert canon.Differs(path="$.owner", old=None, new="ada") in first.lines
    house.world.change_policy()
    house.world.change_policy(thresholds={"memory/write": 100})
    await house.world.send(house.canon)
    policy = next(row.id for row in reversed(rows) if row.kind == "access_policy")
    changed = await reading.diff(OBSERVER, canon.Diff(new=policy))
    assert [(line.path, line.new) for line in changed.lines] == [('$.policy.thresholds["memory/write"]', 100)]
    other = next(row.id for row in rows if row.kind == "memory_block" and _key(row) == "mem::ada::other-0")
    audited = await _ids_of(house, "decision_batch")
    for asked, field in (
        (canon.Diff(new=newest, old=other), "$.old"),
        (canon.Diff(new=newest, old=policy), "$.old"),
        (canon.Diff(new=audited), "$.new"),
    ):
        refused = await _refusal(reading.diff(ROOT, asked))
        assert (refused.code, refused.field) == (Code.BAD_INPUT, field)


async def test_a_version_that_was_changed_is_reported_and_the_others_are_shown(house):
    """A byte of one version: history tells its place and shows the rest, on whatever page; a difference with it is refused."""
    seqs = await remembered(house, 5)
    disk = house.canon.store.disk
    row = disk.rows[seqs[2]]
    disk.rows[seqs[2]] = msgspec.structs.replace(row, payload=row.payload.replace(b"text 2", b"text 9"))
    disk.ids[row.id] = disk.rows[seqs[2]]
    fresh = memory.reading.Reading(house.canon.store, lambda: house.canon.writer.state, house.world.log_key)
    house.canon.reading = fresh
    for limit in (1, 2, 3, 50):
        found = await versions_of(house, ADA, limit, kind="memory_block", key="mem::ada::thing")
        assert found == ([seq for seq in seqs if seq != seqs[2]], [seqs[2]])
    for asked in (canon.Diff(new=row.id), canon.Diff(new=disk.rows[seqs[1]].id)):
        refused = await _refusal(fresh.diff(ADA, asked))
        assert (refused.code, refused.detail) == (Code.CORRUPT_RECORD, {"seq": seqs[2]})
    disk.rows[seqs[2]] = disk.ids[row.id] = row


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_a_version_that_was_hidden_is_missed(house, limit):
    """Somebody who takes a version out of its thing is found out by the one after it, which names it."""
    seqs = await remembered(house, 4)
    disk = house.canon.store.disk
    row = disk.rows[seqs[2]]
    disk.rows[seqs[2]] = msgspec.structs.replace(row, thing=None)
    found = await versions_of(house, ADA, limit, kind="memory_block", key="mem::ada::thing")
    assert found == ([seq for seq in seqs if seq != seqs[2]], [seqs[1]])
    oldest = disk.rows[seqs[3]]
    disk.rows[seqs[3]] = msgspec.structs.replace(oldest, thing=None)
    found = await versions_of(house, ADA, limit, kind="memory_block", key="mem::ada::thing")
    assert found == (seqs[:2], [seqs[1]])
    disk.rows[seqs[2]], disk.rows[seqs[3]] = row, oldest


def test_a_call_knows_which_records_stand_together(house):
    """Audit and system stand or fall whole; user alone."""
    assert rules.open_call(canon.Append(records=tuple(chained(house.world, 2)))).whole
    assert not rules.open_call(
        canon.Append(records=(house.world.memory(house.world.granted(house.ada, "memory/write")),))
    ).whole
    house.world.log.pop()
