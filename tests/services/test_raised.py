"""A client, a real gateway and a real gate, where the policy raised a mutation to a rung that needs the owner's word."""

from collections.abc import AsyncIterator

import pytest

from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilcore.refusals import Code, Refused
from sigilrun import http
from tests import oracle
from tests.services.gateway_world import Face, World, world

WRITE = knowledge.MemoryWrite(key="greeting", text="Good morning.")


@pytest.fixture(name="home")
async def _home(tmp_path) -> AsyncIterator[World]:
    """Writing memory is a mentor's here."""
    async with world(tmp_path / "house") as one:
        one.ledger.change_policy(rungs={"memory/write": Loa.MENTOR})
        await one.canon.publish()
        yield one
        oracle.check(one.ledger.placed(), one.ledger.checkpoint(), one.ledger.state.genesis_hash)


@pytest.fixture(name="face")
async def _face(home: World) -> AsyncIterator[Face]:
    """A gateway of the test's own."""
    async with home.gateway() as one:
        yield one


def proofs(home: World) -> list[tuple[str, str]]:
    """How each recorded call of `memory/write` was proven, and what became of it."""
    payloads = (one.payload for one in home.ledger.by_id.values() if one.core.kind == "decision_batch")
    chains = [frozen.chain for payload in payloads for frozen in payload.decisions]
    return [(chain.proof, chain.verdict.value) for chain in chains if chain.command == "memory/write"]


async def test_a_client_with_the_owner_s_key_is_asked_once(home: World, face: Face) -> None:
    """The session's proof, a refusal, the owner's own; from then on the owner's at once."""
    async with http.Client(face.address) as mia:
        await mia.login(home.mia.toml, owner=home.mia.signer)
        for _ in range(2):
            assert (await mia.call(knowledge.MEMORY_WRITE, WRITE)).key == "greeting"
    assert proofs(home) == [("session", "Deny"), ("owner", "Allow"), ("owner", "Allow")]


async def test_a_client_without_it_hears_the_refusal(home: World, face: Face) -> None:
    """There is nothing to repeat with."""
    async with http.Client(face.address) as mia:
        await mia.login(home.mia.toml, owner=home.mia.signer)
        mia.owner = None
        with pytest.raises(Refused) as caught:
            await mia.call(knowledge.MEMORY_WRITE, WRITE)
    assert caught.value.code is Code.OWNER_PROOF_NEEDED
    assert proofs(home) == [("session", "Deny")]


async def test_a_certificate_that_names_it_asks_nobody(home: World, face: Face) -> None:
    """The session's own proof is enough, for its minutes."""
    async with http.Client(face.address) as mia:
        await mia.login(home.mia.toml, owner=home.mia.signer, may=("memory/write",))
        await mia.call(knowledge.MEMORY_WRITE, WRITE)
    assert proofs(home) == [("session", "Allow")]


async def test_the_owner_never_signs_a_read_because_somebody_says_so(
    home: World, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that asks for the owner's word on a read gets none."""
    async with http.Client(face.address) as mia:
        await mia.login(home.mia.toml, owner=home.mia.signer)
        body = b'{"code":"OWNER_PROOF_NEEDED","detail":""}'
        sent = []

        async def lying(*_: object, headers: dict[str, str], **__: object) -> tuple[int, bytes]:
            sent.append(headers)
            return 403, body

        monkeypatch.setattr(mia, "fetch", lying)
        with pytest.raises(Refused):
            await mia.call(knowledge.MEMORY_LIST, knowledge.MemoryList())
    assert len(sent) == 1
