"""Reviews and calls on somebody's behalf, as their callers ask the gatekeeper, over a log that admits records as the writer does."""

import asyncio
import json

import msgspec
import pytest

from cli import approval, seam
from cli.governed import Unverified
from services.canon_writer import memory
from sigilcore import clock, digest, permit, policy, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.contracts import gatekeeper as contract
from sigilcore.contracts.common import Empty
from sigilcore.decision import Verdict
from sigilcore.refusals import Code, Refused
from sigilrun import service as run
from tests import canonworld, oracle
from tests.core import test_approvals as attacks
from tests.reviewing import Reviewed, alone
from tests.services import test_gatekeeper as gatehouse
from tests.services.test_gatekeeper import WRITE, refused
from tests.simulator import Person

OTHER = WRITE.replace("Good", "Bad")
EXPLAIN = '{"key":"greeting"}'
GET = '{"id":"01900000-0000-7000-8000-000000000000"}'
WITHIN_S = 600


class House(gatehouse.House):
    """Every `memory/write` is reviewed; Mia and Max are mentors, Cy an operator with a key like Ada."""

    def __init__(self, **limits):
        super().__init__(**limits)
        self.cy = self.world.issue(Person("cy"), Loa.OPERATOR)
        self.mia = self.world.issue(Person("mia"), Loa.MENTOR)
        self.max = self.world.issue(Person("max"), Loa.MENTOR)
        self.review_of("memory/write")

    def review_of(self, *names, **more):
        reviews = {name: policy.Review(within_s=WITHIN_S) for name in names}
        self.world.change_policy(reviews=reviews, rate_limit=1_000_000, **more)
        self.world.clock.advance(1)

    async def needed(self, client, body=WRITE, command="memory/write"):
        """A call that waits: the detail of its refusal."""
        with refused(Code.REVIEW_NEEDED) as caught:
            await self.authorize(client, command, body)
        return caught.value.detail

    async def decide(self, client, detail, command=contract.APPROVE, **changes):
        """A mentor's word on it, by the owner's own key."""
        (view,) = [one for one in (await self.listed(client)).items if one.review == detail["review"]]
        asked = contract.DecideReview(review=view.review, digest=changes.get("digest", view.digest))
        return await self.owned(client, command, asked)

    async def owned(self, client, command, request, **how):
        """A call that its owner's key proves."""
        body = msgspec.json.encode(request)
        answer = await self.authorize(client, command.name, body.decode(), **({"owner": True} | how))
        return await self.permitted(command, request, self.bound(answer, command.name, body.decode()))

    async def permitted(self, command, request, bound):
        body = msgspec.json.encode(request)
        call = run.Call(command=command, body=body, trace_id="0" * 32, deadline_ms=None, permitted=bound)
        return await self.ask(command, request, call=call)

    async def listed(self, client):
        return await self.call(client, contract.APPROVAL_LIST, contract.ListReviews())

    async def approved(self, client, mentor, body=WRITE):
        """A call that waited and was approved: the approval as its caller shows it."""
        detail = await self.needed(client, body)
        await self.decide(mentor, detail)
        return f"{detail['review']}.{detail['salt']}"

    # Calls on somebody's behalf.

    async def explaining(self, client):
        """The permit of a call that knowledge is answering."""
        return (await self.authorize(client, "memory/explain", EXPLAIN)).permit

    async def behalf(self, parent, command="canon/get", body=GET, service="knowledge"):
        call = run.Call(
            command=contract.CHILD, scope=(service,), body=b"", trace_id="0" * 32, deadline_ms=None, permitted=None
        )
        asked = contract.AuthorizeChild(parent=parent, command=command, parameters=body)
        return await self.ask(contract.CHILD, asked, call=call)

    def resealed(self, token, signer=None, **changes):
        """The permit with other words, sealed by the gatekeeper's own key or by somebody's."""
        key = self.world.services["gatekeeper"]
        said = permit.envelope.unseal(token, signing.PERMIT, permit.Permit, key.public_key)
        return permit.seal(signer or key, msgspec.structs.replace(said, **changes))


@pytest.fixture
def house():
    built = House()
    yield built
    oracle.check(built.world.placed(), built.world.checkpoint(), built.world.state.genesis_hash)


# The ordinary way


async def test_a_call_waits_for_a_mentor_and_then_runs(house):
    """Refused with the way on; seen with its very parameters; approved by the owner's key; repeated, allowed, recorded alone."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    detail = await house.needed(ada)
    assert detail["decision"] == detail["review"]
    (view,) = (await house.listed(mia)).items
    assert (view.owner, view.command, view.parameters, view.salt) == ("ada", "memory/write", WRITE, detail["salt"])
    told = await house.decide(mia, detail)
    assert (told.verdict, told.owner, told.until) == ("approved", "ada", detail["until"])
    answer = await house.authorize(ada, "memory/write", WRITE, approval=f"{detail['review']}.{detail['salt']}")
    bound = house.bound(answer, "memory/write", WRITE)
    assert (bound.permit.salt, bound.permit.digest) == (detail["salt"], view.digest)
    (alone,) = house.log.payloads("approved_decision")
    assert alone.decision.chain.approval == detail["review"]
    assert (await house.listed(mia)).items == ()


async def test_a_call_that_was_refused_stays_so(house):
    """A mentor's no is a record, and the caller hears it."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    detail = await house.needed(ada)
    await house.decide(mia, detail, contract.REFUSE)
    with refused(Code.APPROVAL_REFUSED):
        await house.authorize(ada, "memory/write", WRITE, approval=f"{detail['review']}.{detail['salt']}")
    assert [one.verdict for one in house.log.payloads("approval_decided")] == ["refused"]


async def test_who_sees_what_waits(house):
    """A mentor sees all, a caller its own, nobody another's."""
    ada, cy, mia = await house.login(house.ada), await house.login(house.cy), await house.login(house.mia)
    await house.needed(ada)
    await house.needed(cy, OTHER)
    assert [one.owner for one in (await house.listed(mia)).items] == ["ada", "cy"]
    assert [one.owner for one in (await house.listed(cy)).items] == ["cy"]


async def test_an_approval_that_is_not_needed_is_not_used(house):
    """Once the policy asks for no review, the call passes by itself and the word keeps."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    house.review_of()
    answer = await house.authorize(ada, "memory/write", WRITE, approval=approval)
    assert answer.verdict is Verdict.ALLOW
    assert house.log.payloads("approved_decision") == []
    house.review_of("memory/write")
    await house.authorize(ada, "memory/write", WRITE, approval=approval)
    assert len(house.log.payloads("approved_decision")) == 1


async def test_an_approved_read_is_not_shared(house):
    """What a mentor let pass once isn't let pass for a minute."""
    house.review_of("memory/read")
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    detail = await house.needed(ada, EXPLAIN, "memory/read")
    await house.decide(mia, detail)
    await house.authorize(ada, "memory/read", EXPLAIN, approval=f"{detail['review']}.{detail['salt']}")
    await house.needed(ada, EXPLAIN, "memory/read")


# Attacks


async def test_approval_replayed_on_other_parameters(house):
    """The word was given for other bytes."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    with refused(Code.APPROVAL_MISMATCH):
        await house.authorize(ada, "memory/write", OTHER, approval=approval)


async def test_approval_made_for_a_used_by_b(house):
    """Who finds or steals an approval holds nothing; the attempt is a recorded denial."""
    ada, cy, mia = await house.login(house.ada), await house.login(house.cy), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    with refused(Code.APPROVAL_MISMATCH) as caught:
        await house.authorize(cy, "memory/write", WRITE, approval=approval)
    assert "decision" in caught.value.detail
    assert house.log.judged("memory/write")[-1].audit.owner == "cy"


async def test_expired_approval(house):
    """A word counts for the policy's time, from the first call on."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    house.world.clock.advance(WITHIN_S * 1000)
    with refused(Code.APPROVAL_EXPIRED):
        await house.authorize(ada, "memory/write", WRITE, approval=approval)


async def test_review_that_expired_before_anyone_looked(house):
    """Nobody can approve what waits no more, though they still hold its name."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    detail = await house.needed(ada)
    (view,) = (await house.listed(mia)).items
    house.world.clock.advance(WITHIN_S * 1000)
    asked = contract.DecideReview(review=detail["review"], digest=view.digest)
    with refused(Code.APPROVAL_EXPIRED):
        await house.owned(mia, contract.APPROVE, asked)


async def test_approval_used_twice(house):
    """One word, one call: side by side, one of two passes, and the other's denial is recorded."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    both = [house.authorize(ada, "memory/write", WRITE, approval=approval) for _ in range(2)]
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(first, contract.Authorized)
    assert isinstance(second, Refused)
    assert second.code is Code.APPROVAL_USED


async def test_approval_used_at_another_gate_that_this_one_has_not_seen(house):
    """A gate that lags judges it good; the writer knows better, and the gate follows and says no."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    house.log.follow()
    house.log.behind = True
    await house.authorize(ada, "memory/write", WRITE, approval=approval)
    assert next(iter(house.log.seen.approvals.values())).used_seq is None
    with refused(Code.APPROVAL_USED):
        await house.authorize(ada, "memory/write", WRITE, approval=approval)


async def test_self_approval(house):
    """A mentor licence of one's own doesn't make one somebody else; the call goes on waiting."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    twin = await house.login(house.world.issue(Person("ada"), Loa.MENTOR))
    detail = await house.needed(ada)
    with refused(Code.SELF_APPROVAL):
        await house.decide(twin, detail)
    await house.decide(mia, detail)


async def test_approval_by_an_operator(house):
    """The level is asked by the gate like any other."""
    ada, cy = await house.login(house.ada), await house.login(house.cy)
    detail = await house.needed(ada)
    asked = contract.DecideReview(review=detail["review"], digest="0" * 64)
    with refused(Code.LOA_TOO_LOW):
        await house.owned(cy, contract.APPROVE, asked)


async def test_approval_by_a_session_key_alone(house):
    """A mentor's word is the owner's own, or of a certificate that names it."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    detail = await house.needed(ada)
    asked = contract.DecideReview(review=detail["review"], digest="0" * 64)
    with refused(Code.OWNER_PROOF_NEEDED):
        await house.owned(mia, contract.APPROVE, asked, owner=False)


async def test_approver_shown_another_digest(house):
    """A word on a digest that isn't the waiting call's approves nothing."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    detail = await house.needed(ada)
    with refused(Code.APPROVAL_MISMATCH):
        await house.decide(mia, detail, digest="0" * 64)
    assert house.log.payloads("approval_decided") == []


async def test_approver_shown_other_data_than_is_executed(house):
    """The approver's own side holds what is shown to the decision in the log: other words, another salt, another caller, all are seen."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    await house.needed(ada)
    (view,) = (await house.listed(mia)).items
    (chain,) = house.log.judged("memory/write")
    approval.check(view, chain)
    lies = (
        {"parameters": OTHER},
        {"parameters": WRITE + " "},
        {"salt": "0" * 32},
        {"owner": "cy"},
        {"command": "memory/list"},
        {"digest": "0" * 64},
        {"parameters": OTHER, "digest": digest.parameter_digest(bytes.fromhex(view.salt), OTHER.encode())},
    )
    for lie in lies:
        with pytest.raises(Unverified):
            approval.check(msgspec.structs.replace(view, **lie), chain)
    with pytest.raises(Unverified):
        approval.check(view, msgspec.structs.replace(chain, verdict=Verdict.DENY))


async def test_a_call_that_hides_from_the_approvers_terminal(house, monkeypatch, capsys):
    """Spaces of JSON that send the cursor back over the text, letters that turn its direction or clear the screen: all of it is shown."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    hidden = '{"key":"plan","text":"Burn the \u202ehouse.\x9b2J",\r' + " " * 60 + '"tags":[]}'
    await house.needed(ada, hidden)
    listed = await house.listed(mia)
    monkeypatch.setattr(seam, "wait", lambda work: (work.close(), listed)[1])
    approval.show_list(seam.State())
    for shown in (approval.text(listed.items[0]), capsys.readouterr().out):
        assert shown.replace("\n", "").isprintable()
        assert r'"text":"Burn the \u202ehouse.\u009b2J",\r ' in shown


async def test_approval_by_a_mentor_who_was_revoked_since(house):
    """Who has no say any more has none about yesterday's call either."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    house.world.revoke(house.mia)
    house.gate.history.doubt()  # Root's call was decided by this very instance's key, in the simulator
    house.world.clock.advance(1)
    with refused(Code.APPROVER_INVALID):
        await house.authorize(ada, "memory/write", WRITE, approval=approval)


async def test_deciding_what_was_decided(house):
    """The second mentor hears that nothing waits."""
    ada, mia, other = await house.login(house.ada), await house.login(house.mia), await house.login(house.max)
    detail = await house.needed(ada)
    (view,) = (await house.listed(mia)).items
    await house.decide(mia, detail)
    with refused(Code.REVIEW_UNKNOWN):
        await house.owned(other, contract.REFUSE, contract.DecideReview(review=view.review, digest=view.digest))


@pytest.mark.parametrize(
    "approval", ["", "x", "0.0", f"{'0' * 36}.0", f"{'0' * 36}.999.{'0' * 32}", f"{'0' * 36}.0.{'G' * 32}"]
)
async def test_malformed_approval(house, approval):
    """What can't be an approval is bad input, and is never judged."""
    ada = await house.login(house.ada)
    with refused(Code.BAD_INPUT):
        await house.authorize(ada, "memory/write", WRITE, approval=approval)
    assert house.log.judged("memory/write") == []


async def test_approval_that_nobody_gave(house):
    """A name of one's own making is a recorded denial."""
    ada = await house.login(house.ada)
    with refused(Code.APPROVAL_UNKNOWN):
        await house.authorize(ada, "memory/write", WRITE, approval=f"{'0' * 36}.0.{'0' * 32}")


# Bounds


async def test_one_caller_cannot_fill_the_table(house):
    """Beyond its own share a caller is refused, and others still wait."""
    house = House(reviews_of_caller=2)
    ada, cy = await house.login(house.ada), await house.login(house.cy)
    await house.needed(ada)
    await house.needed(ada)
    with refused(Code.BUSY):
        await house.authorize(ada, "memory/write", WRITE)
    await house.needed(cy)


async def test_a_full_table_answers_a_refusal(house):
    """Nothing that waits is dropped for what comes; when the oldest is over, there is room."""
    house = House(reviews=1)
    ada, cy = await house.login(house.ada), await house.login(house.cy)
    await house.needed(ada)
    with refused(Code.BUSY):
        await house.authorize(cy, "memory/write", WRITE)
    house.world.clock.advance(WITHIN_S * 1000)
    await house.needed(cy)


async def test_a_call_too_large_to_be_shown(house):
    """What doesn't fit is refused by its size."""
    house = House(review_caller_bytes=len(WRITE))
    ada = await house.login(house.ada)
    with refused(Code.BODY_TOO_LARGE):
        await house.authorize(ada, "memory/write", WRITE + " ")
    await house.needed(ada)


async def test_a_flood_of_reviews_is_no_flood_of_records(house):
    """Reviews count like denials: beyond ten a minute there is neither a record nor a place to wait."""
    house = House(recorded_denials=2)
    ada = await house.login(house.ada)
    await house.needed(ada)
    await house.needed(ada)
    with refused(Code.RATE_LIMITED):
        await house.authorize(ada, "memory/write", WRITE)
    assert len(house.log.judged("memory/write")) == 2


async def test_a_restart_forgets_what_waits_and_keeps_what_was_approved(house):
    """What waits lives in memory; what was said stands in the log, and counts at any gate."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    approval = await house.approved(ada, mia)
    await house.needed(ada)
    house.gate = house.another()
    house.world.clock.advance(60_000)  # the calls of the last minute are forgotten too
    assert (await house.listed(mia)).items == ()
    await house.authorize(ada, "memory/write", WRITE, approval=approval)


# Calls on somebody's behalf


async def test_a_service_calls_on_its_callers_behalf(house):
    """Same caller, same session, same way of proving; the decision names the call that it was made for."""
    ada = await house.login(house.ada)
    parent = await house.explaining(ada)
    bound = house.bound(await house.behalf(parent), "canon/get", GET)
    above = house.bound(msgspec.structs.replace(await house.behalf(parent), permit=parent), "memory/explain", EXPLAIN)
    assert bound.permit.parent == above.permit.decision
    assert (bound.permit.session_id, bound.permit.owner_id, bound.permit.proof) == (
        above.permit.session_id,
        "ada",
        "session",
    )
    assert house.log.judged("canon/get")[0].parent == above.permit.decision.link()


async def test_undeclared_command_on_somebodys_behalf(house):
    """A service reaches no further than its declaration, whatever its caller may do."""
    parent = await house.explaining(await house.login(house.ada))
    for command in ("memory/write", "memory/list", "license/create", "no/such"):
        with refused(Code.CALL_UNDECLARED):
            await house.behalf(parent, command, "{}")


async def test_another_services_permit(house):
    """A permit that was meant for one service opens nothing to another, which may only speak through its own door."""
    parent = await house.explaining(await house.login(house.ada))
    with refused(Code.PERMIT_MISMATCH):
        await house.behalf(parent, service="license")


async def test_forged_parent(house):
    """A permit by anyone but the gatekeeper, or of another deployment, is nobody's call."""
    parent = await house.explaining(await house.login(house.ada))
    stranger = signing.Ed25519Signer.generate()
    for forged in (house.resealed(parent, stranger, owner_id="root"), parent[:-4] + "AAAA", "x"):
        with refused(Code.PERMIT_INVALID):
            await house.behalf(forged)
    with refused(Code.PERMIT_INVALID):
        await house.behalf(house.resealed(parent, tenant="other"))


async def test_closed_run(house):
    """Once the call must have ended, nothing more is done in its name."""
    ada = await house.login(house.ada)
    parent = await house.explaining(ada)
    house.world.clock.advance(permit.START_WINDOW_MS + 10_000)
    await house.behalf(parent)
    house.world.clock.advance(1)
    with refused(Code.PERMIT_EXPIRED):
        await house.behalf(parent)


async def test_stretched_run(house):
    """A permit that claims a longer run than its command declares has the declared one."""
    parent = house.resealed(await house.explaining(await house.login(house.ada)), longest_run_s=3_600)
    house.world.clock.advance(permit.START_WINDOW_MS + 10_001)
    with refused(Code.PERMIT_EXPIRED):
        await house.behalf(parent)


async def test_child_of_a_child_beyond_its_declaration(house):
    """A child is a call like any other: it may make those that its own command declares, here none."""
    parent = await house.explaining(await house.login(house.ada))
    child = (await house.behalf(parent)).permit
    with refused(Code.CALL_UNDECLARED):
        await house.behalf(child, "audit/get", service="canon_reader")


async def test_rights_never_raised(house):
    """What the caller may not do itself, no service does for it."""
    narrow = house.world.issue(Person("nan"), Loa.OPERATOR, scope=("memory/*",))
    house.world.clock.advance(1)
    parent = await house.explaining(await house.login(narrow))
    with refused(Code.OUT_OF_SCOPE):
        await house.behalf(parent)


async def test_parent_of_a_closed_session_or_a_revoked_licence(house):
    """Logout and revocation end what is being done in one's name."""
    ada, cy = await house.login(house.ada), await house.login(house.cy)
    parents = await house.explaining(ada), await house.explaining(cy)
    await house.ask(contract.CLOSE, gatehouse.closing(house, ada))
    with refused(Code.SESSION_CLOSED):
        await house.behalf(parents[0])
    house.world.revoke(house.cy)
    with refused(Code.LICENSE_INVALID):
        await house.behalf(parents[1])


async def test_parent_of_a_session_that_is_over(house):
    """A session's end is the end of what it asked for."""
    parent = house.resealed(await house.explaining(await house.login(house.ada)), session_ends_ms=house.world.now_ms)
    with refused(Code.SESSION_EXPIRED):
        await house.behalf(parent)


async def test_children_share_nothing(house):
    """A read on somebody's behalf leaves no decision behind for the caller's own reads, nor for another child."""
    ada = await house.login(house.ada)
    parent = await house.explaining(ada)
    await house.behalf(parent)
    await house.behalf(parent)
    await house.authorize(ada, "canon/get", GET)
    await house.behalf(parent)
    assert [one.parent is None for one in house.log.judged("canon/get")] == [False, False, True, False]


async def test_children_count_as_calls(house):
    """A service can't multiply its caller's rate."""
    house = House(calls_per_minute=3)
    parent = await house.explaining(await house.login(house.ada))
    await house.behalf(parent)
    await house.behalf(parent)
    with refused(Code.RATE_LIMITED):
        await house.behalf(parent)


async def test_a_child_under_review_is_refused_and_does_not_wait(house):
    """A mentor is never asked about a call that its caller didn't make."""
    house.review_of("canon/get")
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    with refused(Code.REVIEW_NEEDED) as caught:
        await house.behalf(await house.explaining(ada))
    assert "review" not in caught.value.detail
    assert (await house.listed(mia)).items == ()


async def test_parameters_on_somebodys_behalf_are_bound_as_ever(house):
    """The child's permit is for exactly the bytes that the service asked for."""
    parent = await house.explaining(await house.login(house.ada))
    answer = await house.behalf(parent)
    with refused(Code.PERMIT_MISMATCH):
        house.bound(answer, "canon/get", json.dumps({"id": "else"}))


async def test_what_a_mentor_may_call_lists_approving(house):
    """The commands are listed to whom they are open."""
    ada, mia = await house.login(house.ada), await house.login(house.mia)
    for client, open_to in ((ada, False), (mia, True)):
        names = {one.name for one in (await house.call(client, contract.COMMAND_LIST, Empty())).items}
        assert ("approval/approve" in names, "approval/list" in names) == (open_to, True)


# The writer's own committer, which looks in its store for what a record names


class World(Reviewed, canonworld.World):
    """A house whose records go to a canon, each at its own time."""

    async def send(self, pen):
        now_ms, log = self.clock.ms, self.log
        answers = []
        for count in range(self.sent + 1, len(log) + 1):
            self.log = log[:count]
            self.clock.ms = clock.parse_ms(record.check(log[-1 + count]).core.ts)
            answers += await super().send(pen)
        self.log, self.clock.ms = log, now_ms
        return answers


@pytest.fixture
async def world():
    """A world and its canon in memory, whose whole ledger is judged again afterwards."""
    made = World()
    made.canon = await memory.MemoryCanon.start(
        signer=made.writer, deployment=made.deployment, clock=made.clock, on_commit=lambda _: None
    )
    yield made
    await made.canon.stop()
    rows = made.canon.store.disk.rows
    oracle.check([row.placed() for row in rows], made.canon.writer.head.note, made.state.genesis_hash)


async def test_the_writer_finds_what_a_record_names(world):
    """Review, word, approved decision, parent and child: each in a commit of its own, none remembered but by the store."""
    review = world.approved(world.ada)
    world.put(alone(world.asked(world.ada, approval=review)))
    parent, session = world.explaining(world.ada)
    world.put(world.child(world.ada, parent, session))
    await world.send(world.canon)


@pytest.mark.parametrize("attack", [*attacks.ATTACKS, *attacks.CHILDREN], ids=lambda attack: attack.__name__)
async def test_the_writer_refuses_what_a_lying_gatekeeper_sends(world, attack):
    """Each attack of the core, at the committer itself: refused for the same reason, and nothing of it stands."""
    lie = attack(world)
    await world.send(world.canon)
    answer = await world.canon.append(canon.Append(records=(world.signed(lie),)))
    assert canonworld.code_of(answer) == (attacks.ATTACKS | attacks.CHILDREN)[attack]
