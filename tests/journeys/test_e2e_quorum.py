"""Journeys of the quorum: short is refused, enough is committed, and the system's own rules follow."""

import asyncio

import msgspec
import pytest

from cli import governed, model, owner
from sigilcore import model_update, trust
from sigilcore.access import Loa
from sigilcore.contracts import canon, gatekeeper, knowledge, license, quorum
from sigilcore.contracts.common import Empty
from sigilcore.refusals import Code, Refused
from sigilrun import http
from tests import machine as machines


async def propose_model(machine, version, **changes):
    """Root proposes a model."""
    proposed = msgspec.structs.replace(trust.DEFAULT_MODEL, version=version, **changes)
    return (await owner.propose_model(machine.root.client, machine.root.signer, proposed)).proposal_id


async def propose_together(machine, wanted, **because):
    """Root proposes a model and the policy in force, which stand or fall together."""
    found = await governed.state(machine.root.client)
    parts = [
        {"kind": "model_config", "payload": msgspec.to_builtins({"model": wanted, **because})},
        {"kind": "access_policy", "payload": {"policy": msgspec.to_builtins(found.policy)}},
    ]
    return (await owner.propose(machine.root.client, machine.root.signer, "changes", {"changes": parts})).proposal_id


async def test_e2e_quorum_pass_fail(machine):
    """Two voices of three needed: 409 with have and need. The third: committed, and only once."""
    proposal = await propose_model(machine, "pass-fail")
    for mentor in machine.mentors[:2]:
        await machine.attest(proposal, mentor)
    with pytest.raises(Refused) as caught:
        await machine.commit(proposal)
    assert (caught.value.code, caught.value.code.status) == (Code.QUORUM_NOT_SATISFIED, 409)
    assert (caught.value.detail["have"], caught.value.detail["need"]) == (2, 3)

    with pytest.raises(Refused) as caught:
        await machine.attest(proposal, machine.mentors[0])
    assert caught.value.code is Code.ALREADY_ATTESTED

    tally = await machine.attest(proposal, machine.mentors[2])
    assert (tally.have, tally.need, tally.state) == (3, 3, "ready")
    first = await machine.commit(proposal)
    assert await machine.commit(proposal) == first
    await machine.audit()


async def test_model_refresh(machine):
    """Journey model_refresh: a committed model decides without a restart, and every decision names it."""
    ada = await machine.person("ada-model", Loa.OPERATOR)
    asked = gatekeeper.TrustCheck(action="write", target="memory")
    before = await ada.client.call(gatekeeper.TRUST_CHECK, asked)
    assert before.allowed
    strict = msgspec.structs.replace(trust.DEFAULT_MODEL, bias=trust.DEFAULT_MODEL.bias - 3_000_000)
    proposal = await propose_model(machine, "strict", bias=strict.bias)
    for mentor in machine.mentors[:3]:
        await machine.attest(proposal, mentor)
    committed = await machine.commit(proposal)
    refreshed = await machine.root.client.call(gatekeeper.MODEL_REFRESH, Empty())
    assert refreshed.model == "strict"
    assert refreshed.as_of > committed.seq

    after = await ada.client.call(gatekeeper.TRUST_CHECK, asked)
    assert (after.allowed, after.model) == (False, "strict")
    with pytest.raises(Refused) as caught:
        await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="y"))
    assert caught.value.code is Code.DENIED_BY_TRUST
    assert caught.value.detail["model"] == "strict"

    proposal = await propose_model(machine, "mild-again")
    for mentor in machine.mentors[1:]:
        await machine.attest(proposal, mentor)
    await machine.commit(proposal)
    current = await ada.client.call(quorum.MODEL_CURRENT, Empty())
    assert current.model.version == "mild-again"
    await http.persistently(
        lambda: ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="x", text="y")), give_up_s=10
    )
    await machine.audit()


async def test_model_learnt_from_outcomes(machine):
    """A write turned out bad: Root computes the next model from its decision, and a mentor computes it again before the attestation."""
    ada = await machine.person("ada-outcome", Loa.OPERATOR)
    with pytest.raises(Refused):
        await ada.client.call(license.LIST, license.ListLicenses())
    written = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="bad", text="a bad idea"))
    link = (await machine.root.client.call(canon.GET, canon.Get(id=written.id))).header["core"]["links"][0]["target"]

    found = await governed.state(machine.root.client)
    why = model_update.Because(
        version=found.model.version, rate=trust.ONE, outcomes=(model_update.Outcome(decision=link, good=False),)
    )
    computed = await model.computed(machine.root.client, found, why, "wiser")
    assert computed.model.weights.action < found.model.weights.action
    honest = await owner.propose_model(machine.root.client, machine.root.signer, computed.model, why)
    bent = msgspec.structs.replace(computed.model, bias=5_000_000)
    forged = await propose_together(machine, bent, because=why)
    mentor = machine.mentors[0].client
    assert (await model.computed_again(mentor, honest.proposal_id)).lines == computed.lines
    with pytest.raises(governed.Unverified, match="doesn't follow"):
        await model.computed_again(mentor, forged)
    for proposal in (honest.proposal_id, forged):
        await machine.root.client.call(quorum.WITHDRAW, quorum.ProposalId(proposal_id=proposal))
    await machine.audit()


async def test_racing_proposals(machine):
    """Two complete proposals on one head, one of them several changes: one commits, the other is stale and says how to go on."""
    first = await propose_model(machine, "racer-1")
    second = await propose_together(machine, msgspec.structs.replace(trust.DEFAULT_MODEL, version="racer-2"))
    for proposal in (first, second):
        for mentor in machine.mentors[:3]:
            await machine.attest(proposal, mentor)
    results = await asyncio.gather(machine.commit(first), machine.commit(second), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Refused)]
    assert len(refused) == 1
    assert refused[0].code in {Code.STALE_PREV, Code.PROPOSAL_CLOSED}
    await machine.audit()


async def test_e2e_quorum_runtime(tmp_path):
    """Journey e2e_quorum_runtime: a proposal survives a restart of everything, attestations and all."""
    async with machines.running(tmp_path / "data") as machine:
        await machine.seal(3, 2)
        proposal = await propose_model(machine, "survivor")
        await machine.attest(proposal, machine.mentors[0])
        await machine.stop()
        await machine.start()
        await machine.open_again()
        for mentor in machine.mentors[1:2]:
            await mentor.client.login(mentor.toml, owner=mentor.licence_signer)
            await machine.attest(proposal, mentor)
        committed = await machine.commit(proposal)
        current = await machine.root.client.call(quorum.MODEL_CURRENT, Empty())
        assert (current.model.version, current.seq) == ("survivor", committed.seq)
