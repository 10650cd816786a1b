"""Peers at the gatekeeper: how a node opens a session, and that a grant's mark is kept before anything is decided on it."""

import asyncio
import secrets
import types
from typing import Any

import msgspec
import pytest

from services.gatekeeper.limits import Limits
from services.gatekeeper.service import Gatekeeper
from sigilcore import peers, session, signing
from sigilcore.access import Loa
from sigilcore.contracts import common
from sigilcore.contracts import gatekeeper as contract
from sigilcore.contracts.common import Empty
from sigilcore.decision import Verdict
from sigilcore.faults import Fault
from sigilcore.grant import Outcome
from sigilcore.peers import Tier
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.gridworld import Grid, Node
from tests.services import test_gatekeeper as desk

WRITE = desk.WRITE


class House(desk.House):
    """Simulator with peers, log and gatekeeper together."""

    world: Grid

    def __init__(self, **limits: Any) -> None:
        self.world = Grid()
        self.log = desk.MemoryLog(self.world)
        self.gate = self.another(**limits)
        self.lib = self.world.enrol_peer(Node("library"))
        self.world.clock.advance(1)

    def opening(self, node: Node, challenge: contract.Challenge, key: signing.Signer, **changes: Any) -> str:
        signer = changes.pop("signer", node.signer)
        fields = {
            "runtime_id": challenge.runtime_id,
            "tenant": challenge.tenant,
            "node_key": node.key,
            "session_key": key.public_key.hex(),
            "nonce": challenge.nonce,
            "not_after_ms": self.world.now_ms + 3_600_000,
        }
        return peers.greet(signer, peers.PeerSession(**(fields | changes)))

    async def greet(self, node: Node, gate: Gatekeeper | None = None, **changes: Any) -> desk.Client:
        challenge = await self.ask(contract.CHALLENGE, Empty(), gate=gate)
        key = signing.Ed25519Signer.generate()
        opening = self.opening(node, challenge, key, **changes)
        view = await self.ask(contract.PEER, contract.OpenPeerSession(opening=opening), gate=gate)
        return desk.Client(node, key, view)  # type: ignore[arg-type]

    def marks(self) -> list[int]:
        """Epochs of the marks that the gate wrote, in order."""
        return [mark.epoch for mark in self.log.payloads("grant_mark")]


@pytest.fixture
def house():
    built = House()
    yield built
    oracle.check(built.world.placed(), built.world.checkpoint(), built.world.state.genesis_hash)


refused = desk.refused


class AnotherInstance(desk.MemoryLog):
    """The same log, written by a second instance of the gatekeeper."""

    def __init__(self, world: Grid) -> None:
        super().__init__(world)
        self.key = signing.Ed25519Signer.generate()
        payload = audit.InstanceOpened(
            service="gatekeeper", instance="2", key=self.key.public_key.hex(), settings_digest="0" * 64
        )
        world.append(
            "instance_opened",
            payload,
            world.services["gatekeeper"],
            prev=world.state.chains[world.services["gatekeeper"].key_id],
        )

    async def record(self, kind: str, payload: msgspec.Struct) -> common.Placed:
        checked = self.world.append(kind, payload, self.key)
        return common.Placed(id=checked.core.id, hash=checked.header.hash, seq=len(self.world.log) - 1)


# Sessions


async def test_a_peer_opens_a_session_by_its_node_s_key(house):
    """The token names the enrolment in the licence's place and the key in the owner's, and the log tells of it."""
    client = await house.greet(house.lib)
    assert (client.view.owner_id, client.view.loa, client.view.bearer) == (house.lib.owner_id, Loa.OBSERVER, False)
    opened = house.log.payloads("session_opened")[-1]
    assert (opened.licence_id, opened.owner_id, opened.key) == (
        house.lib.enrolment,
        house.lib.owner_id,
        client.key.public_key.hex(),
    )
    answer = await house.authorize(client, "memory/list")
    assert house.bound(answer, "memory/list").permit.owner_id == house.lib.owner_id


async def test_openings_that_open_nothing(house):
    """A stranger, another's key, another deployment's challenge, a weak session key, nonsense."""
    stranger, eve = Node("stranger"), signing.Ed25519Signer.generate()
    with refused(Code.PEER_INVALID):
        await house.greet(stranger)
    with refused(Code.SIGNATURE_INVALID):
        await house.greet(house.lib, signer=eve)
    with refused(Code.PEER_INVALID):
        await house.greet(house.lib, runtime_id="0" * 36)
    with refused(Code.WEAK_KEY):
        await house.greet(house.lib, session_key="00" * 32)
    with refused(Code.NONCE_INVALID):
        await house.greet(house.lib, nonce="x.y")
    with refused(Code.SIGNATURE_INVALID):
        await house.ask(contract.PEER, contract.OpenPeerSession(opening="nothing"))
    assert house.log.payloads("session_opened") == []
    assert sum(desk.counted(house).values()) == 6


async def test_an_opening_is_good_once(house):
    """Whoever records an opening can't open with it again."""
    challenge, key = await house.challenge(), signing.Ed25519Signer.generate()
    request = contract.OpenPeerSession(opening=house.opening(house.lib, challenge, key))
    await house.ask(contract.PEER, request)
    with refused(Code.NONCE_INVALID):
        await house.ask(contract.PEER, request)


async def test_what_a_node_signs_for_another_house_opens_nothing_here(house):
    """A node between two others can't carry a challenge of ours to the one and speak here with the answer."""
    challenge, key = await house.challenge(), signing.Ed25519Signer.generate()
    elsewhere = house.opening(house.lib, challenge, key, runtime_id=House().world.runtime_id)
    with refused(Code.PEER_INVALID):
        await house.ask(contract.PEER, contract.OpenPeerSession(opening=elsewhere))


async def test_a_blocked_peer_opens_nothing_and_its_open_session_is_over(house):
    """The open session gets recorded denials, a new one isn't made."""
    client = await house.greet(house.lib)
    house.world.block(house.lib)
    with refused(Code.PEER_INVALID) as caught:
        await house.authorize(client, "ping")
    assert "decision" in caught.value.detail
    with refused(Code.PEER_INVALID):
        await house.greet(house.lib)


async def test_a_peer_blocked_while_its_decision_was_committed_gets_no_permit(house):
    """Between commit and permit the peer is looked at once more."""
    client = await house.greet(house.lib)
    await house.authorize(client, "ping")

    record = house.log.record

    async def then_block(kind: str, payload: msgspec.Struct) -> common.Placed:
        placed = await record(kind, payload)
        house.world.block(house.lib)
        return placed

    house.log.record = then_block
    with refused(Code.PEER_INVALID):
        await house.authorize(client, "ping")


async def test_a_peer_without_its_session_s_key_is_nobody(house):
    """The token alone makes no call; nor does a proof that claims to be the owner's."""
    client = await house.greet(house.lib)
    with refused(Code.PROOF_MISSING):
        await house.authorize(client, "ping", proof=None)
    forged = session.prove(
        client.key,
        session_id=client.view.session_id,
        command="license/create",
        parameters=b"{}",
        time_ms=house.world.now_ms,
        nonce=secrets.token_hex(16),
        by="owner",
    )
    with refused(Code.PROOF_INVALID):
        await house.authorize(client, "license/create", proof=forged)


async def test_what_is_listed_to_a_peer_is_what_it_may_call(house):
    """Its tier's commands, and with a grant that was marked those that it confers; each listed one is allowed with the grant."""
    client = await house.greet(house.lib)
    token = house.world.lend(house.lib, "memory/write")
    before = {view.name for view in (await house.call(client, contract.COMMAND_LIST, Empty())).items}
    assert "memory/list" in before
    assert not {"memory/write", "license/create", "audit/list"} & before
    await house.authorize(client, "memory/write", WRITE, grant=token)
    after = {view.name for view in (await house.call(client, contract.COMMAND_LIST, Empty())).items}
    assert after - before == {"memory/write"}
    for name in after:
        answer = await house.authorize(client, name, grant=token)
        assert house.bound(answer, name).permit.command == name


# Grants


async def test_a_granted_call_gets_a_permit_for_its_own_rung(house):
    """The mark is in the log before the decision, and the permit says operator."""
    client = await house.greet(house.lib)
    token = house.world.lend(house.lib, "memory/write")
    answer = await house.authorize(client, "memory/write", WRITE, grant=token)
    assert house.bound(answer, "memory/write", WRITE).permit.loa is Loa.OPERATOR
    kinds = [one.core.kind for one in house.world.by_id.values()]
    assert kinds[-2:] == ["grant_mark", "decision_batch"]
    (chain,) = house.log.judged("memory/write")
    assert (chain.grant.epoch, chain.grant.outcome) == (1, Outcome.AUTHORIZED)


async def test_the_mark_moves_even_when_nothing_is_conferred(house):
    """A grant without capabilities, shown once, ends the one before for ever, at this gate and every other."""
    client = await house.greet(house.lib)
    first, second = house.world.lend(house.lib, "memory/write"), house.world.lend(house.lib)
    await house.authorize(client, "memory/write", WRITE, grant=first)
    await house.authorize(client, "ping", grant=second)
    with refused(Code.GRANT_REFUSED):
        await house.authorize(client, "memory/write", WRITE, grant=first)
    assert house.marks() == [1, 2]
    restarted = house.another()
    house.world.clock.advance(1)
    again = await house.greet(house.lib, gate=restarted)
    with refused(Code.GRANT_REFUSED) as caught:
        await house.ask(contract.AUTHORIZE, house.request(again, "memory/write", WRITE, grant=first), gate=restarted)
    assert caught.value.detail["grant"] == "Superseded"


async def test_epoch_rolled_back_from_a_backup(house):
    """A log set back to before a higher epoch was shown: its writer takes no word more, so the older grant lets nothing through."""
    client = await house.greet(house.lib)
    first, second = house.world.lend(house.lib, "memory/write"), house.world.lend(house.lib)
    await house.authorize(client, "memory/write", WRITE, grant=first)
    backup = house.world.log[:]
    await house.authorize(client, "ping", grant=second)

    set_back = desk.MemoryLog(types.SimpleNamespace(log=backup, placed=lambda: house.world.placed()[: len(backup)]))  # type: ignore[arg-type]
    set_back.broken = Refused(Code.READ_ONLY, "the high-water file knows more records than the store")
    gate = Gatekeeper(limits=Limits(), clock=house.world.clock, signer=house.world.services["gatekeeper"], log=set_back)
    house.world.clock.advance(1)
    assert set_back.state.mark_of(client.view.owner_id.removeprefix("peer:")).epoch == 1
    with refused(Code.GATE_FAULT):
        await house.ask(contract.AUTHORIZE, house.request(client, "memory/write", WRITE, grant=first), gate=gate)
    assert house.marks() == [1, 2]


async def test_a_mark_is_moved_once(house):
    """The same grant again, in whatever number at once, writes one mark."""
    client = await house.greet(house.lib)
    token = house.world.lend(house.lib, "memory/write")
    requests = [house.request(client, "memory/write", WRITE, grant=token) for _ in range(8)]
    await asyncio.gather(*(house.ask(contract.AUTHORIZE, request) for request in requests))
    await house.authorize(client, "memory/write", WRITE, grant=token)
    assert house.marks() == [1]


async def test_two_gates_move_a_mark_together(house):
    """The writer takes the first, the other gate follows it; both allow, and one mark stands."""
    log = AnotherInstance(house.world)
    signer = house.world.services["gatekeeper"]
    other = Gatekeeper(limits=Limits(), clock=house.world.clock, signer=signer, log=log)
    house.world.clock.advance(1)
    mine, theirs = await house.greet(house.lib), await house.greet(house.lib, gate=other)
    token = house.world.lend(house.lib, "memory/write")
    log.follow()
    log.behind = True
    await house.authorize(mine, "memory/write", WRITE, grant=token)
    late = house.request(theirs, "memory/write", WRITE, grant=token)
    answer = await house.ask(contract.AUTHORIZE, late, gate=other)
    assert house.bound(answer, "memory/write", WRITE).permit.loa is Loa.OPERATOR
    assert house.marks() == [1]


@pytest.mark.parametrize("failure", [Refused(Code.READ_ONLY, "stopped"), Fault("0" * 32), TimeoutError()])
async def test_a_mark_that_cannot_be_kept_denies(house, failure):
    """Whatever keeps the mark out of the log keeps the call out too, and the denial says so."""
    client = await house.greet(house.lib)
    token = house.world.lend(house.lib, "memory/write")
    record = house.log.record

    async def no_marks(kind: str, payload: msgspec.Struct) -> common.Placed:
        if kind == "grant_mark":
            raise failure
        return await record(kind, payload)

    house.log.record = no_marks
    with refused(Code.GRANT_REFUSED) as caught:
        await house.authorize(client, "memory/write", WRITE, grant=token)
    assert caught.value.detail["grant"] == "WatermarkUnavailable"
    assert house.world.state.grant_marks == {}
    house.log.record = record
    await house.authorize(client, "memory/write", WRITE, grant=token)


async def test_a_canon_that_never_answers_denies_in_time(house):
    """The gate waits for a mark no longer than its bound."""
    gate = house.another(mark_s=0.01, answer_s=1.0)
    house.world.clock.advance(1)
    client = await house.greet(house.lib, gate=gate)
    token = house.world.lend(house.lib, "memory/write")
    record = house.log.record

    async def stuck(kind: str, payload: msgspec.Struct) -> common.Placed:
        if kind == "grant_mark":
            await asyncio.Event().wait()
        return await record(kind, payload)

    house.log.record = stuck
    with refused(Code.GRANT_REFUSED):
        await house.ask(contract.AUTHORIZE, house.request(client, "memory/write", WRITE, grant=token), gate=gate)


@pytest.mark.parametrize("token", ["", "nothing", "a.b", "x" * 20_000])
async def test_a_grant_that_cannot_be_read_is_an_error(house, token):
    """Loud, unrecorded and counted: never a call without a grant."""
    client = await house.greet(house.lib)
    with refused(Code.GRANT_INVALID):
        await house.authorize(client, "ping", grant=token)
    assert house.log.judged("ping") == []
    assert desk.counted(house) == {"GRANT_INVALID": 1}


async def test_a_licensee_shows_no_grant(house):
    """A grant in a person's session is an error too: nobody would look at it."""
    ada = house.world.issue(desk.Person("ada"), Loa.OPERATOR)
    client = await house.login(ada)
    with refused(Code.GRANT_INVALID):
        await house.authorize(client, "ping", grant=house.world.lend(house.lib, "ping"))


async def test_a_grant_by_anybody_else_moves_no_mark(house):
    """Neither a stranger's grant, nor one for another key, mesh or time, writes a byte but the denial."""
    client, eve = await house.greet(house.lib), signing.Ed25519Signer.generate()
    other = house.world.enrol_peer(Node("other"))
    for token in (
        house.world.grant(house.lib, "memory/write", signer=eve),
        house.world.grant(other, "memory/write"),
        house.world.grant(house.lib, "memory/write", granted_in="city"),
        house.world.grant(house.lib, "memory/write", expires_at_ms=1),
    ):
        with refused(Code.GRANT_REFUSED):
            await house.authorize(client, "memory/write", WRITE, grant=token)
    assert house.marks() == []


async def test_a_revocation_is_felt_by_the_next_call(house):
    """However often the grant was good before."""
    client = await house.greet(house.lib)
    token = house.world.lend(house.lib, "memory/write")
    await house.authorize(client, "memory/write", WRITE, grant=token)
    house.world.revoke_grants(house.lib)
    with refused(Code.GRANT_REFUSED) as caught:
        await house.authorize(client, "memory/write", WRITE, grant=token)
    assert caught.value.detail["grant"] == Outcome.SUPERSEDED


async def test_a_revocation_in_flight_is_judged_again(house):
    """A grant that ended between judgement and commit admits nothing: the writer says so, and the gate looks again."""
    client = await house.greet(house.lib)
    token = house.world.lend(house.lib, "memory/write")
    await house.authorize(client, "memory/write", WRITE, grant=token)
    house.log.behind = True
    house.world.revoke_grants(house.lib)
    with refused(Code.GRANT_REFUSED):
        await house.authorize(client, "memory/write", WRITE, grant=token)
    assert [chain.verdict for chain in house.log.judged("memory/write")] == [Verdict.ALLOW, Verdict.DENY]


async def test_denials_of_a_peer_do_not_fill_the_log(house):
    """Ten a minute are recorded, the rest are counted, as a licensee's."""
    client = await house.greet(house.lib)
    for _ in range(12):
        with refused(Code.LOA_TOO_LOW):
            await house.authorize(client, "memory/write", WRITE)
    assert len(house.log.judged("memory/write")) == 10


async def test_a_mesh_s_word_is_felt_by_the_next_call(house):
    """A member that its mesh blocks is over at once."""
    client = await house.greet(house.lib)
    await house.authorize(client, "ping")
    house.world.tier(house.lib, house.world.member(house.lib, Tier.BLOCKED))
    with refused(Code.PEER_INVALID):
        await house.authorize(client, "ping")


async def test_a_permit_for_a_peer_is_good_for_its_bytes_only(house):
    """What was granted for one body is no permit for another."""
    client = await house.greet(house.lib)
    answer = await house.authorize(client, "memory/write", WRITE, grant=house.world.lend(house.lib, "memory/write"))
    with refused(Code.PERMIT_MISMATCH):
        house.bound(answer, "memory/write", WRITE.replace("Good", "Bad"))
