"""A flood fills no log and starves no brake: strangers, broken requests and one licensed caller at ten times its rate, logins and forged
attests from many addresses, on a whole house."""

import asyncio
import base64
import collections
from collections.abc import AsyncIterator

import pytest

from cli import owner
from sigilcore import peers, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper, license
from sigilcore.contracts.common import Empty
from sigilcore.decision import Verdict
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun import http
from tests import flooding, machine

CALLS = 30  # a minute, of one licence
LOGINS = 60  # a minute, with one licence
REQUESTS = 600  # ten times that, and as much again of strangers and broken ones
ENV = {"SIGIL_GATE_RATE_LIMIT_PER_MINUTE": str(CALLS)}


@pytest.fixture(scope="module", name="house")
async def _house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[machine.Machine]:
    """One house; its ledger is verified again at the end."""
    async with machine.running(tmp_path_factory.mktemp("flood") / "data", ENV) as one:
        yield one


def opening(session: http.Session, nonce: str) -> str:
    """A login of a node that nobody enrolled, by the book."""
    node = signing.Ed25519Signer.generate()
    said = peers.PeerSession(
        runtime_id=session.runtime_id,
        tenant="default",
        node_key=node.public_key.hex(),
        session_key=node.public_key.hex(),
        nonce=nonce,
        not_after_ms=session.not_after_ms,
    )
    return peers.greet(node, said)


async def test_a_flood_fills_no_log_and_starves_no_brake(house: machine.Machine) -> None:
    """While it lasts Root revokes and a witness attests, both are felt; the log grows by what one caller may write, and no further."""
    mentor = await house.enrol("mentor-1")
    flooder = await house.person("flooder", Loa.OPERATOR)
    victim = await house.person("victim", Loa.OPERATOR)
    payload = owner.seal_payload(1, kinds={}, proposal_ttl_s=3600)
    assert house.root.signer is not None
    proposed = await owner.propose(house.root.client, house.root.signer, "quorum_policy", payload)
    assert flooder.client.session is not None
    before, _ = await house.ledger()
    well_formed = {
        "session/open": lambda nonce: {"license": flooder.toml, "nonce": nonce},
        "session/peer": lambda nonce: {"opening": opening(flooder.client.session, nonce)},
        "quorum/attest": lambda _: {
            "proposal_id": proposed.proposal_id,
            "witness_id": mentor.owner_id,
            "signature": base64.b64encode(bytes(64)).decode(),
        },
    }
    flood = flooding.Flood(house.address, flooder.client.session.token, well_formed=well_formed)
    async with asyncio.timeout(60), flood.running():
        await flood.sent(REQUESTS)
        await house.root.client.call(license.REVOKE, license.RevokeLicense(license_id=victim.licence_id))
        with pytest.raises(Refused) as caught:
            await victim.client.call(gatekeeper.PING, Empty())
        assert caught.value.code is Code.LICENSE_INVALID
        tally = await house.attest(proposed.proposal_id, mentor)
        assert tally.have == 1
        await flood.sent(2 * REQUESTS)
    assert flood.answered["RATE_LIMITED"] > CALLS, flood.answered
    # What needs no permit was heard and judged, not only turned away at the door.
    assert flood.answers["session/open"]["200"] > 1, flood.answers
    assert flood.answers["session/peer"]["PEER_INVALID"] > 1, flood.answers
    assert flood.answers["quorum/attest"]["SIGNATURE_INVALID"] > 1, flood.answers
    assert {"SESSION_MISSING", "SESSION_INVALID", "BAD_INPUT", "LOA_TOO_LOW"} & set(flood.answered)

    after, _ = await house.ledger()
    new = [record.check(placed.signed()) for placed in after[len(before) :]]
    kinds = collections.Counter(one.core.kind for one in new)
    decided = [
        frozen.chain for one in new if isinstance(one.payload, audit.DecisionBatch) for frozen in one.payload.decisions
    ]
    floods = [chain for chain in decided if chain.audit.licence == flooder.licence_id]
    denied = [chain for chain in floods if chain.verdict is not Verdict.ALLOW]
    assert kinds["license_revoked"] == kinds["proposal_attested"] == 1
    # A flood of a minute and a bit: whatever the hands sent, this is all that anybody will ever read of it.
    minutes = 2
    assert len(denied) <= 10 * minutes
    assert len(floods) <= CALLS * minutes
    assert kinds["memory_block"] <= CALLS * minutes
    assert kinds["refusal_summary"] <= minutes
    assert 1 < kinds["session_opened"] <= LOGINS * minutes
    others = {
        "license_revoked",
        "proposal_attested",
        "instance_beat",
        "session_opened",
        "memory_block",
        "refusal_summary",
        "decision_batch",
    }
    assert set(kinds) <= others | {"cosignature"}
    assert len(new) <= (2 * CALLS + LOGINS) * minutes + 40
