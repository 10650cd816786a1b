"""Journey reviews: a policy asks for a mentor's word, a call waits, is read and approved on the mentor's own side, and runs once.

And a call on somebody's behalf: why a memory is there, asked of the canon in its owner's name.
"""

import contextlib

import msgspec
import pytest

from cli import approval, governed, owner
from sigilcore import decision, record
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper, knowledge
from sigilcore.decision import Verdict
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused


async def change_policy(machine, **fields):
    """Root proposes a policy, the witnesses attest, Root commits."""
    found = await governed.state(machine.root.client)
    asked = {"policy": {"version": f"after-{found.policy_seq}", "rate_limit": 120} | fields}
    proposed = await owner.propose(machine.root.client, machine.root.signer, "access_policy", asked)
    for mentor in machine.mentors[:3]:
        await machine.attest(proposed.proposal_id, mentor)
    await machine.commit(proposed.proposal_id)


@contextlib.asynccontextmanager
async def reviewed(machine, *names):
    """While the block runs, these commands wait for a mentor."""
    await change_policy(machine, reviews={name: {"within_s": 600} for name in names})
    try:
        yield
    finally:
        await change_policy(machine)


async def needed(someone, command, request, **how):
    """The call is refused until a mentor has spoken; the refusal's detail."""
    with pytest.raises(Refused) as caught:
        await someone.client.call(command, request, **how)
    assert caught.value.code is Code.REVIEW_NEEDED, caught.value
    return caught.value.detail


async def approve(mentor, review):
    """What `sigil approval approve` does: read it from the log with its proof, then say yes to its digest."""
    view = await approval.read(mentor.client, review)
    return view, await mentor.client.call(
        gatekeeper.APPROVE, gatekeeper.DecideReview(review=review, digest=view.digest)
    )


@pytest.mark.journey
async def test_a_reviewed_call_runs_once_a_mentor_has_read_it(machine):
    """Refused, read, approved, run, refused again; self-approval and other bytes are refused; the whole ledger is judged again."""
    ada = await machine.person("ada-reviews", Loa.OPERATOR, keyed=True)
    mia = await machine.person("mia-reviews", Loa.MENTOR)
    twin = await machine.person("ada-reviews", Loa.MENTOR)
    asked = knowledge.MemoryWrite(key="plan", text="Sell the house.")
    async with reviewed(machine, "memory/write"):
        detail = await needed(ada, knowledge.MEMORY_WRITE, asked)
        shown = f"{detail['review']}.{detail['salt']}"
        with pytest.raises(Refused) as caught:
            await ada.client.call(knowledge.MEMORY_WRITE, asked, approval=shown)
        assert caught.value.code is Code.APPROVAL_UNKNOWN
        with pytest.raises(Refused) as caught:
            await approve(twin, detail["review"])
        assert caught.value.code is Code.SELF_APPROVAL

        view, told = await approve(mia, detail["review"])
        assert msgspec.json.decode(view.parameters)["text"] == asked.text
        assert (told.verdict, told.owner, told.until) == ("approved", "ada-reviews", detail["until"])

        other = msgspec.structs.replace(asked, text="Burn the house.")
        with pytest.raises(Refused) as caught:
            await ada.client.call(knowledge.MEMORY_WRITE, other, approval=shown)
        assert caught.value.code is Code.APPROVAL_MISMATCH
        written = await ada.client.call(knowledge.MEMORY_WRITE, asked, approval=shown)
        with pytest.raises(Refused) as caught:
            await ada.client.call(knowledge.MEMORY_WRITE, asked, approval=shown)
        assert caught.value.code is Code.APPROVAL_USED

        why = await ada.client.call(knowledge.MEMORY_EXPLAIN, knowledge.MemoryExplain(key="plan", wait_for=written.seq))
        assert why.reasoning.chain.approval == detail["review"]

        refused = await needed(ada, knowledge.MEMORY_WRITE, other)
        view = await approval.read(mia.client, refused["review"])
        await mia.client.call(gatekeeper.REFUSE, gatekeeper.DecideReview(review=view.review, digest=view.digest))
        with pytest.raises(Refused) as caught:
            await ada.client.call(knowledge.MEMORY_WRITE, other, approval=f"{refused['review']}.{refused['salt']}")
        assert caught.value.code is Code.APPROVAL_REFUSED
    records = await machine.audit()
    kinds = [record.check_placed(placed).core.kind for placed in records]
    assert (kinds.count("approval_decided"), kinds.count("approved_decision")) == (2, 1)


@pytest.mark.journey
async def test_why_a_memory_is_there(machine):
    """Knowledge asks the canon in the caller's name: the owner hears the whole decision, a stranger nothing; the calls are recorded."""
    eve = await machine.person("eve-explains", Loa.OPERATOR)
    zoe = await machine.person("zoe-explains", Loa.OPERATOR)
    written = await eve.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="why", text="Because."))
    asked = knowledge.MemoryExplain(key="why", wait_for=written.seq)
    why = await eve.client.call(knowledge.MEMORY_EXPLAIN, asked)
    chain = why.reasoning.chain
    assert (why.memory.id, chain.command, chain.audit.owner, chain.verdict) == (
        written.id,
        "memory/write",
        "eve-explains",
        Verdict.ALLOW,
    )
    assert decision.intact(why.reasoning)
    with pytest.raises(Refused) as caught:
        await zoe.client.call(knowledge.MEMORY_EXPLAIN, asked)
    assert caught.value.code is Code.NOT_FOUND
    roots = await machine.root.client.call(
        knowledge.MEMORY_EXPLAIN, knowledge.MemoryExplain(key="why", user_id="eve-explains")
    )
    assert roots.decision == why.decision
    chains = [
        frozen.chain
        for placed in await machine.audit()
        for frozen in audit.decisions_in(record.check_placed(placed).payload)
    ]
    children = [one for one in chains if one.parent is not None and one.audit.owner == "eve-explains"]
    assert [one.command for one in children] == ["canon/get", "audit/get"]


@pytest.mark.journey
async def test_what_a_narrow_licence_is_not_told(machine):
    """Whose scope holds memory alone can't have knowledge read the canon for them: the refusal is theirs."""
    nan = await machine.person("nan-explains", Loa.OPERATOR, scope=("memory/*",))
    written = await nan.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="why", text="Because."))
    asked = knowledge.MemoryExplain(key="why", wait_for=written.seq)
    with pytest.raises(Refused) as caught:
        await nan.client.call(knowledge.MEMORY_EXPLAIN, asked)
    assert (caught.value.code, caught.value.detail["scope"]) == (Code.OUT_OF_SCOPE, ["memory/*"])
