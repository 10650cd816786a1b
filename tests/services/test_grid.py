"""The grid service, as its callers ask it, against peers that lie, dawdle and send us elsewhere; over a log in memory."""

import asyncio
import contextlib
import json
from typing import Any

import msgspec
import pytest
from aiohttp import web

from services.grid import caller as calling
from services.grid.caller import Caller
from services.grid.service import HANDLERS, Grid
from services.grid.store import Held
from sigilcore import decision, envelope, grant, ids, peers, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import grid as wire
from sigilcore.contracts.common import Empty, Placed
from sigilcore.refusals import Code, Refused
from sigilrun import service as run
from tests import gridworld, oracle
from tests.gridworld import MESH, Node
from tests.simulator import DAY_MS, Person

PERSON = {"owner_id": "peer:x", "loa": "guest"}


class MemoryLedger:
    """The canon in a list: real records, admitted by the writer's rules."""

    def __init__(self, world: gridworld.Grid) -> None:
        self.world = world

    @property
    def state(self) -> Any:
        return self.world.state

    async def reach(self, seq: int) -> None:
        assert seq < len(self.world.log)

    async def effect(self, kind: str, payload: msgspec.Struct, *, name: str, admits: decision.DecisionRef) -> Placed:
        links = [record.Link(label="decision", target=admits.link())]
        placed = self.world.append(kind, payload, self.world.instances["grid"], links=links)
        assert ids.is_id(name)
        return self._placed(placed)

    async def outcome(self, kind: str, payload: msgspec.Struct, *, asked: Placed) -> Placed:
        links = [record.Link(label="asked", target=asked.id)]
        return self._placed(self.world.append(kind, payload, self.world.instances["grid"], links=links))

    def _placed(self, placed: record.Checked) -> Placed:
        return Placed(id=placed.core.id, hash=placed.header.hash, seq=len(self.world.log) - 1)


class Peer:
    """Another node's gateway as an attacker runs it: what each path answers is set by the test."""

    def __init__(self) -> None:
        self.runtime_id = ids.new()
        self.genesis = "5" * 64
        self.node = Node("library")
        self.owner = signing.Ed25519Signer.generate()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.sessions = 0
        self.address = ""
        self.answers: dict[str, Any] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removeprefix("/api/commands/")
        self.seen.append((name, dict(request.headers)))
        await request.read()
        answer = self.answers.get(name) or getattr(self, name.replace("/", "_"), None)
        assert answer is not None, name
        return await answer(request)

    async def session_challenge(self, _: web.Request) -> web.Response:
        told = {
            "nonce": "n.n",
            "runtime_id": self.runtime_id,
            "tenant": "default",
            "canon_fingerprint": self.genesis,
            "expires_ms": 1,
        }
        return web.json_response(told)

    async def session_peer(self, _: web.Request) -> web.Response:
        self.sessions += 1
        told = {
            "token": f"t{self.sessions}",
            "session_id": ids.new(),
            "owner_id": "peer:x",
            "owner_name": "school",
            "loa": "guest",
            "bearer": False,
            "not_after_ms": 1,
        }
        return web.json_response(told)

    async def ping(self, _: web.Request) -> web.Response:
        return web.json_response(PERSON)

    @property
    def reach(self) -> wire.Reach:
        return wire.Reach(
            address=self.address,
            runtime_id=self.runtime_id,
            canon_fingerprint=self.genesis,
            owner_key=self.owner.public_key.hex(),
        )

    def lent(self, to: str, *capabilities: str, signer: signing.Signer | None = None, **changes: Any) -> str:
        issuer = signer or self.owner
        fields = {
            "grantee": "school",
            "grantee_key": to,
            "capabilities": capabilities,
            "granted_in": MESH,
            "issued_at_ms": 0,
            "expires_at_ms": None,
            "epoch": 1,
            "issuer": issuer.public_key.hex(),
        }
        return grant.sign(issuer, grant.CapabilityGrant(**(fields | changes)))

    def said(self) -> list[str]:
        return [name for name, _ in self.seen]


@contextlib.asynccontextmanager
async def listening(peer: Peer):
    runner = web.ServerRunner(web.Server(peer.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    peer.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield peer
    finally:
        await runner.cleanup()


class School:
    """This node: its log, its grid service, Root, and Ada the operator."""

    def __init__(self, folder: Any) -> None:
        self.world = gridworld.Grid()
        self.folder = folder
        self.node = self.world.services["grid"]
        self.ada = self.world.issue(Person("ada"), Loa.OPERATOR)
        self.held = Held(folder / "grid.db")
        self.caller = Caller(self.node)
        self.grid = self.service()

    def service(self) -> Grid:
        return Grid(
            ledger=MemoryLedger(self.world),
            clock=self.world.clock,
            node=self.node,
            held=self.held,
            caller=self.caller,
        )

    async def ask(self, command: Any, request: Any, person: Person | None = None) -> Any:
        """A permitted call."""
        return await HANDLERS[command](self.grid, request, self.permitted(command, request, person))

    def permitted(self, command: Any, request: Any, person: Person | None = None) -> run.Call:
        """What a handler is given of it."""
        body = msgspec.json.encode(request)
        permitted = self.world.granted(person or self.world.root, command.name, body)
        bound = self.world.bound(permitted, body)
        return run.Call(command=command, body=body, trace_id="0" * 32, deadline_ms=None, permitted=bound)

    async def meet(self, peer: Peer, name: str = "library", **changes: Any) -> None:
        fields = {"peer": name, "key": peer.node.key, "mesh": MESH, "reach": peer.reach}
        await self.ask(wire.PEER_ENROL, wire.EnrolPeer(**(fields | changes)))

    async def call(self, command: str = "ping", name: str = "library", **parameters: Any) -> wire.PeerAnswer:
        asked = wire.CallPeer(peer=name, command=command, parameters=parameters)
        return await self.ask(wire.CALL, asked, self.ada)

    def calls(self, kind: str = "peer_called") -> list[Any]:
        return [one.payload for one in self.world.by_id.values() if one.core.kind == kind]


@pytest.fixture
async def school(tmp_path):
    built = School(tmp_path)
    yield built
    await built.caller.close()
    built.held.close()
    oracle.check(built.world.placed(), built.world.checkpoint(), built.world.state.genesis_hash)


@pytest.fixture
async def library(school):
    async with listening(Peer()) as peer:
        await school.meet(peer)
        yield peer


@contextlib.contextmanager
def refused(code: Code):
    with pytest.raises(Refused) as caught:
        yield caught
    assert caught.value.code is code, caught.value


# Calls to peers


async def test_a_call_goes_out_and_is_recorded_before_it_is_shown(school, library):
    """A session by the node's key, the declared answer, and a record that names the peer's key and the outcome."""
    answer = await school.call()
    assert answer.reply == PERSON
    assert library.said() == ["session/challenge", "session/peer", "ping"]
    (call,) = school.calls()
    assert (call.peer, call.key_id, call.command, call.outcome) == (
        "library",
        library.node.signer.key_id,
        "ping",
        "answered",
    )
    await school.call()
    assert library.sessions == 1


@pytest.mark.parametrize("together", [True, False])
async def test_one_permit_is_one_call_out_there_whoever_takes_it(school, library, together):
    """Two processes of the service are shown one permit, at once or one after the other's end: the peer is asked once."""
    asked = wire.CallPeer(peer="library", command="ping")
    call = school.permitted(wire.CALL, asked, school.ada)
    processes = (school.service(), school.service())
    if together:
        answers = await asyncio.gather(
            *(HANDLERS[wire.CALL](one, asked, call) for one in processes), return_exceptions=True
        )
    else:
        answers = [await HANDLERS[wire.CALL](processes[0], asked, call)]
        with refused(Code.DECISION_USED) as caught:
            await HANDLERS[wire.CALL](processes[1], asked, call)
        answers.append(caught.value)
    assert library.said().count("ping") == 1
    (no,) = (answer for answer in answers if isinstance(answer, Refused))
    assert no.code is Code.DECISION_USED
    assert (len(school.calls("peer_asked")), len(school.calls())) == (1, 1)


async def test_what_a_peer_is_asked_stands_in_the_log_before_it_hears_it(school, library):
    """A process that dies while the peer is at work leaves the record of what was asked, and its permit is used up."""

    async def looks(_: web.Request) -> web.Response:
        (asked,) = school.calls("peer_asked")
        assert (asked.peer, asked.key_id, asked.command) == ("library", library.node.signer.key_id, "ping")
        dying.cancel()
        return web.json_response(PERSON)

    library.answers["ping"] = looks
    asked = wire.CallPeer(peer="library", command="ping")
    call = school.permitted(wire.CALL, asked, school.ada)
    dying = asyncio.create_task(HANDLERS[wire.CALL](school.grid, asked, call))
    with pytest.raises(asyncio.CancelledError):
        await dying
    assert school.calls() == []
    with refused(Code.DECISION_USED):
        await HANDLERS[wire.CALL](school.service(), asked, call)
    assert library.said().count("ping") == 1


async def test_a_grant_goes_to_its_owner_s_node_and_nowhere_else(school, library):
    """Two peers, one grant: the other never sees it."""
    token = library.lent(school.node.public_key.hex(), "memory/write")
    await school.ask(wire.HOLD, wire.HoldGrant(peer="library", grant=token), school.ada)
    other = Peer()
    other.node = Node("other")
    async with listening(other):
        await school.meet(other, "other")
        await school.call()
        await school.call(name="other")
    assert [head.get("Sigil-Grant") for name, head in library.seen if name == "ping"] == [token]
    assert all("Sigil-Grant" not in head for _, head in other.seen)
    assert all("Sigil-Grant" not in head for name, head in library.seen if name.startswith("session/"))
    assert [call.grant_hash for call in school.calls()] == [grant.read(token).grant_hash, None]


async def test_a_grant_that_is_over_is_not_sent(school, library):
    """What would count for nothing stays at home."""
    ends = school.world.now_ms + 10
    token = library.lent(school.node.public_key.hex(), "ping", expires_at_ms=ends)
    await school.ask(wire.HOLD, wire.HoldGrant(peer="library", grant=token), school.ada)
    school.world.clock.advance(10)
    assert (await school.call()).grant_hash is None


async def answered(request: web.Request) -> web.Response:
    raise AssertionError("nobody is sent here")


@pytest.mark.parametrize("where", ["session/challenge", "session/peer", "ping"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirection_is_not_followed(school, library, where, status):
    """A peer can't send us to another address, with or without what we carry."""
    elsewhere = Peer()
    async with listening(elsewhere):
        elsewhere.answers = {"session/challenge": answered, "session/peer": answered, "ping": answered}

        async def away(_: web.Request) -> web.Response:
            return web.json_response(
                PERSON, status=status, headers={"Location": f"{elsewhere.address}/api/commands/ping"}
            )

        library.answers[where] = away
        with refused(Code.PEER_UNREACHABLE):
            await school.call()
        assert elsewhere.seen == []
    assert [call.outcome for call in school.calls()] == ["silent"]


async def test_nothing_is_signed_for_another_deployment(school, library):
    """Whoever answers at the address with another runtime or genesis gets no opening."""
    for field, other in (("runtime_id", ids.new()), ("genesis", "6" * 64)):
        setattr(library, field, other)
        with refused(Code.PEER_UNREACHABLE):
            await school.call()
    assert library.said() == ["session/challenge"] * 2


async def test_an_opening_names_the_deployment_that_it_is_for(school, library):
    """What we sign at a peer is good at that peer alone."""
    openings = []

    async def keep(request: web.Request) -> web.Response:
        openings.append(json.loads(await request.read())["opening"])
        return await library.session_peer(request)

    library.answers["session/peer"] = keep
    await school.call()
    said = envelope.unseal(openings[0], signing.PEER_SESSION, peers.PeerSession, school.node.public_key)
    assert said.runtime_id == library.runtime_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"owner_id":"x"}',
        b'{"owner_id":"x","loa":"emperor"}',
        b'{"owner_id":"x","loa":"guest","more":1}',
        b'{"owner_id":"\xff","loa":"guest"}',
        b'{"owner_id":"\\ud800","loa":"guest"}',
    ],
)
async def test_an_answer_that_is_not_as_declared_is_none(school, library, body):
    """What doesn't fit the command's own declaration is never shown."""

    async def told(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    library.answers["ping"] = told
    with refused(Code.PEER_UNREACHABLE):
        await school.call()
    assert [call.outcome for call in school.calls()] == ["silent"]


async def test_an_answer_has_a_size_and_a_time(school, library, monkeypatch):
    """A peer that pours, or sits, is silent."""

    async def pours(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65_536)
        return response

    async def sits(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")

    library.answers["ping"] = pours
    with refused(Code.PEER_UNREACHABLE):
        await school.call()
    library.answers["ping"] = sits
    monkeypatch.setattr(calling, "CALL_S", 0.2)
    with refused(Code.PEER_UNREACHABLE):
        await school.call()


async def test_nobody_at_home(school, library):
    """A closed door is an answer of ours, and recorded."""
    gone = Peer()
    gone.node = Node("gone")
    gone.address = "http://127.0.0.1:1"
    await school.meet(gone, "gone")
    with refused(Code.PEER_UNREACHABLE):
        await school.call(name="gone")
    assert [call.outcome for call in school.calls()] == ["silent"]


def problem(code: Code, **info: Any):
    async def told(_: web.Request) -> web.Response:
        return web.json_response({"code": code, "detail": "no", "info": info}, status=code.status)

    return told


async def test_a_peer_s_no_is_told_as_the_peer_s(school, library):
    """Nobody takes a refusal over there for one of this house; long tales are left out."""
    library.answers["ping"] = problem(Code.GRANT_REFUSED, grant="Superseded")
    with refused(Code.PEER_REFUSED) as caught:
        await school.call()
    assert caught.value.detail["code"] == "GRANT_REFUSED"
    assert caught.value.detail["detail"] == {"grant": "Superseded"}
    library.answers["ping"] = problem(Code.LOA_TOO_LOW, tale="x" * 2_000)
    with refused(Code.PEER_REFUSED) as caught:
        await school.call()
    assert "detail" not in caught.value.detail
    assert [call.outcome for call in school.calls()] == ["GRANT_REFUSED", "LOA_TOO_LOW"]


async def test_a_session_that_is_over_is_opened_again_once(school, library):
    """A peer that always says so isn't asked for ever."""
    await school.call()
    library.answers["ping"] = problem(Code.SESSION_EXPIRED)
    with refused(Code.PEER_REFUSED):
        await school.call()
    assert library.sessions == 2
    assert library.said().count("ping") == 3


async def test_who_may_not_be_called(school, library):
    """A stranger, a blocked peer, one without an address, a command that nobody declares, or that no permit admits."""
    await school.ask(wire.PEER_ENROL, wire.EnrolPeer(peer="mute", key=Node("mute").key, mesh=MESH))
    with refused(Code.PEER_UNKNOWN):
        await school.call(name="stranger")
    with refused(Code.PEER_UNREACHABLE):
        await school.call(name="mute")
    for command in ("ai/generate", "session/open", "canon/append", "license/validate"):
        with refused(Code.UNKNOWN_COMMAND):
            await school.call(command)
    await school.ask(wire.PEER_BLOCK, wire.BlockPeer(peer="library"))
    with refused(Code.PEER_INVALID):
        await school.call()
    assert library.seen == []


async def test_a_new_enrolment_is_a_new_way(school, library):
    """After the peer moved, its old session and address are used no more."""
    await school.call()
    moved = Peer()
    moved.node, moved.owner = library.node, library.owner
    async with listening(moved):
        await school.meet(moved)
        await school.call()
        assert moved.said() == ["session/challenge", "session/peer", "ping"]
    assert library.said().count("ping") == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254",
        "http://10.0.0.1:8080",
        "http://localhost:8080",
        "http://library.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1@evil.example",
        "https://user:word@library.example",
        "https://library.example/",
        "https://library.example/path",
        "https://library.example?x",
        "https://library.example#x",
        "https://library.example\n",
        "https://",
        "https://-x",
        "ftp://library.example",
        "file:///etc/passwd",
        "//library.example",
        "library.example",
        "",
    ],
)
async def test_addresses_that_are_none(school, address):
    """Only https to a bare host, or http to this very machine, can be enrolled, by whatever way the record comes."""
    reach = msgspec.to_builtins(
        wire.Reach(address=address, runtime_id=ids.new(), canon_fingerprint="5" * 64, owner_key="a1" * 32)
    )
    asked = {"peer": "library", "key": Node("x").key, "mesh": MESH, "reach": reach}
    with pytest.raises(msgspec.ValidationError, match="address"):
        msgspec.convert(asked, wire.EnrolPeer)
    forged = wire.Reach(
        address=address, runtime_id=ids.new(), canon_fingerprint="5" * 64, owner_key=school.node.public_key.hex()
    )
    with refused(Code.RECORD_INVALID):
        school.world.enrol_peer(Node("library"), reach=forged)


@pytest.mark.parametrize(
    "address", ["https://library.example", "https://a.b:8443", "https://[2001:db8::1]", "http://127.0.0.1:80"]
)
async def test_addresses_that_are_some(school, address):
    """Names and numbers, with a port or without."""
    reach = wire.Reach(
        address=address, runtime_id=ids.new(), canon_fingerprint="5" * 64, owner_key=school.node.public_key.hex()
    )
    school.world.enrol_peer(Node("library"), reach=reach)
    assert school.world.state.peers["library"].reach.address == address


# Grants that others gave to us


async def test_the_newest_grant_is_kept_and_survives(school, library):
    """A higher epoch takes the place, a lower one never, and a restart finds it."""
    mine = school.node.public_key.hex()
    first, second = library.lent(mine, "ping", epoch=1), library.lent(mine, "memory/write", epoch=2)
    for token in (first, second, second):
        await school.ask(wire.HOLD, wire.HoldGrant(peer="library", grant=token), school.ada)
    with refused(Code.GRANT_STALE):
        await school.ask(wire.HOLD, wire.HoldGrant(peer="library", grant=first), school.ada)
    school.held.close()
    school.held = Held(school.folder / "grid.db")
    assert school.held.newest(library.owner.public_key.hex()).token == second
    school.grid = school.service()
    (view,) = (await school.ask(wire.PEER_LIST, wire.ListPeers())).items
    assert (view.held.epoch, view.held.capabilities) == (2, ("memory/write",))


async def test_grants_that_are_not_kept(school, library):
    """By a stranger, in the owner's name by a stranger, for another node, over, or nonsense: none takes the true one's place."""
    mine, eve = school.node.public_key.hex(), signing.Ed25519Signer.generate()
    body, _, _ = library.lent(mine, "ping", epoch=9).partition(".")
    _, _, sig = library.lent(mine, "ping", epoch=9, signer=eve).partition(".")
    bad = (
        library.lent(mine, "ping", epoch=9, signer=eve),
        f"{body}.{sig}",
        library.lent(Node("x").key, "ping", epoch=9),
        library.lent(mine, "ping", epoch=9, expires_at_ms=school.world.now_ms),
        "nothing",
    )
    for token in bad:
        with refused(Code.GRANT_INVALID):
            await school.ask(wire.HOLD, wire.HoldGrant(peer="library", grant=token), school.ada)
    assert school.held.newest(library.owner.public_key.hex()) is None


def test_a_damaged_file_is_put_aside(tmp_path):
    """Loudly, and never believed."""
    path = tmp_path / "grid.db"
    path.write_bytes(b"not a database at all, not even nearly" * 100)
    held = Held(path)
    assert held.newest("x") is None
    held.close()
    assert path.with_suffix(".damaged").read_bytes().startswith(b"not a database")


# What Root does


async def test_the_card_says_who_this_node_is(school):
    """Node key, owner key and fingerprints, as a peer's Root enrols them."""
    told = await school.ask(wire.NODE, Empty(), school.ada)
    assert (told.node_key, told.owner_key) == (school.node.public_key.hex(), school.world.root.signer.public_key.hex())
    assert (told.runtime_id, told.canon_fingerprint) == (school.world.runtime_id, school.world.state.genesis_hash)


async def test_a_grant_s_life_as_root_sees_it(school):
    """Issued, listed, marked by its first use, revoked; the next epoch always lies above."""
    node = school.world.enrol_peer(Node("pupil"))
    token = school.world.grant(node, "memory/write")
    placed = await school.ask(wire.GRANT_ISSUE, wire.IssueGrant(grant=token))
    assert (placed.peer, placed.epoch) == ("pupil", 1)
    (view,) = (await school.ask(wire.GRANT_LIST, wire.ListGrants(peer="pupil"))).items
    assert view.counts
    school.world.call(node, "memory/write", token)
    ended = await school.ask(wire.GRANT_REVOKE, wire.RevokeGrants(peer="pupil"))
    assert ended.epoch == 2
    (view,) = (await school.ask(wire.GRANT_LIST, wire.ListGrants())).items
    assert not view.counts
    (peer,) = (await school.ask(wire.PEER_LIST, wire.ListPeers())).items
    assert (peer.mark, peer.next_epoch) == (2, 3)


@pytest.mark.parametrize("name", ["license/create", "grid/call", "audit/list", "ai/generate", "memory", "session/open"])
async def test_nothing_is_lent_that_would_never_be_given(school, name):
    """The owner's own commands, the grid's, higher rungs, families and unknown names are refused where they would be issued."""
    node = school.world.enrol_peer(Node("pupil"))
    with refused(Code.GRANT_INVALID):
        await school.ask(wire.GRANT_ISSUE, wire.IssueGrant(grant=school.world.grant(node, name)))


async def test_a_grant_by_another_key_than_root_s_is_not_issued(school):
    """Whatever the caller may do, the signature is the owner's or it is nothing."""
    node, eve = school.world.enrol_peer(Node("pupil")), signing.Ed25519Signer.generate()
    with refused(Code.GRANT_INVALID):
        await school.ask(wire.GRANT_ISSUE, wire.IssueGrant(grant=school.world.grant(node, "ping", signer=eve)))


@pytest.mark.parametrize("person", ["ada", "mentor"])
@pytest.mark.parametrize("command", [wire.PEER_ENROL, wire.PEER_BLOCK, wire.GRANT_ISSUE, wire.GRANT_REVOKE])
async def test_only_root_lends(school, command, person):
    """Nobody below Root enrols, blocks, lends or revokes."""
    asker = school.ada if person == "ada" else school.world.issue(Person("may"), Loa.MENTOR)
    with refused(Code.LOA_TOO_LOW):
        school.world.granted(asker, command.name)


async def test_a_mesh_s_word_is_brought_by_an_operator(school):
    """The signature is what counts; who brings it doesn't."""
    node = school.world.enrol_peer(Node("pupil"), peers.Tier.PROVISIONAL)
    word = school.world.member(node, peers.Tier.TRUSTED)
    told = await school.ask(wire.PEER_TIER, wire.TierPeer(peer="pupil", membership=word), school.ada)
    assert told.tier is peers.Tier.TRUSTED
    with refused(Code.MEMBERSHIP_INVALID):
        await school.ask(wire.PEER_TIER, wire.TierPeer(peer="pupil", membership=word), school.ada)


async def test_pages_of_peers_and_grants(school):
    """Cursors go on where the last page ended; a cursor of one's own making is bad input."""
    nodes = [school.world.enrol_peer(Node(f"pupil-{number}")) for number in range(3)]
    for node in nodes:
        school.world.lend(node, "ping", expires_at_ms=school.world.now_ms + DAY_MS)
    for command, request in ((wire.PEER_LIST, wire.ListPeers), (wire.GRANT_LIST, wire.ListGrants)):
        first = await school.ask(command, request(limit=2))
        rest = await school.ask(command, request(limit=2, cursor=first.cursor))
        assert [view.peer for view in (*first.items, *rest.items)] == ["pupil-0", "pupil-1", "pupil-2"]
        assert rest.cursor is None
        with refused(Code.BAD_INPUT):
            await school.ask(command, request(cursor="two"))
