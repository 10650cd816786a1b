"""Journey reviews: a policy asks for a mentor's word, a call waits, is read and approved on the mentor's own side, and runs once.

And a call on somebody's behalf: why a memory is there, asked of the canon in its owner's name.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import msgspec
import pytest

from cli import approval, governed, owner, profiles
from sigilcore import decision, record
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper, knowledge
from sigilcore.decision import Verdict
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

REPO = Path(__file__).resolve().parents[2]


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
    payloads = [record.check_placed(placed).payload for placed in await machine.audit()]
    words = [one.verdict for one in payloads if isinstance(one, audit.ApprovalDecided) and one.owner == "ada-reviews"]
    alone = [one.decision.chain for one in payloads if isinstance(one, audit.ApprovedDecision)]
    used = [chain.approval for chain in alone if chain.audit.owner == "ada-reviews"]
    assert (words, used) == (["approved", "refused"], [detail["review"]])


@pytest.mark.journey
async def test_a_mentor_decides_at_a_terminal(machine, tmp_path, monkeypatch):
    """`sigil approval list`, `approve` and `refuse`, and `sigil call --approval`: what people type, in sessions that may."""
    monkeypatch.setenv("SIGIL_HOME", str(tmp_path / "home"))
    environment = {**os.environ, "SIGIL_ADDRESS": machine.address}
    cy = await machine.person("cy-reviews", Loa.OPERATOR)
    max_ = await machine.person("max-reviews", Loa.MENTOR)
    await max_.client.login(max_.toml, owner=max_.signer, may=("approval/approve", "approval/refuse"))
    for someone in (cy, max_):
        about = profiles.About(address=machine.address)
        profiles.Profile(someone.owner_id).keep(about=about, license_toml=someone.toml, session=someone.client.session)

    async def sigil(*words):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "cli.main", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
            cwd=REPO,
            env=environment,
        )
        out, err = await child.communicate()
        return child.returncode, out.decode(), err.decode()

    async def call(text, *options):
        asked = ("memory/write", "--json", "--key", "plan", "--text", text)
        return await sigil("call", "--profile", cy.owner_id, *options, *asked)

    async def mentor(*words):
        return await sigil("approval", *words, "--profile", max_.owner_id)

    async with reviewed(machine, "memory/write"):
        code, _, err = await call("Wait for it.")
        detail = msgspec.json.decode(err)["detail"]
        assert (code, msgspec.json.decode(err)["code"]) == (1, "REVIEW_NEEDED"), err
        code, out, _ = await mentor("list")
        assert (code, detail["review"] in out, "Wait for it." in out) == (0, True, True)
        code, out, err = await mentor("approve", detail["review"])
        assert (code, out.startswith("approved: memory/write of cy-reviews")) == (0, True), err
        assert "Wait for it." in err
        code, out, err = await call("Wait for it.", "--approval", f"{detail['review']}.{detail['salt']}")
        assert (code, msgspec.json.decode(out)["key"]) == (0, "plan"), err

        _, _, err = await call("Never.")
        review = msgspec.json.decode(err)["detail"]["review"]
        code, out, err = await mentor("refuse", review)
        assert (code, out.startswith("refused: memory/write of cy-reviews")) == (0, True), err
        code, _, err = await mentor("approve", review)
        assert (code, "no call waits under this name" in err) == (1, True), err


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
