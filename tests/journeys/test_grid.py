"""Journey grid: two whole nodes on one machine. One lends a command to the other, by a grant that only the other's key can use.

A peer's denials cost it its standing, as anybody's do: some ten within the hour, and its granted writes are below the threshold. So
these tests are sparing with them.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from cli import lending, profiles
from sigilcore import clock, grant, peers, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import common, gatekeeper, grid, knowledge
from sigilcore.refusals import Code, Refused
from sigilrun import http, key_format, keys
from tests import machine as machines

MESH = "town"
HEAL_S = 30.0
ROOT = str(Path(__file__).parents[2])
WRITE = {"key": "greeting", "text": "Good morning from the school."}


class Pair:
    """Library lends, school borrows; Ada is an operator of the school's."""

    def __init__(self, library, school):
        self.library = library
        self.school = school
        self.ada = None

    async def meet(self):
        """Each Root enrols the other's node, by the card that its people handed over."""
        self.ada = await self.school.person("ada", Loa.OPERATOR)
        mine, theirs = await card(self.library), await card(self.school)
        await self.enrol()
        reach = grid.Reach(
            address=self.library.address,
            runtime_id=mine.runtime_id,
            canon_fingerprint=mine.canon_fingerprint,
            owner_key=mine.owner_key,
        )
        await self.school.root.client.call(
            grid.PEER_ENROL, grid.EnrolPeer(peer="library", key=mine.node_key, mesh=MESH, reach=reach)
        )
        assert theirs.node_key == self.node().public_key.hex()

    async def enrol(self):
        """The library enrols the school, provisionally."""
        theirs = await card(self.school)
        asked = grid.EnrolPeer(peer="school", key=theirs.node_key, mesh=MESH)
        return await self.library.root.client.call(grid.PEER_ENROL, asked)

    async def lend(self, *capabilities, hold=True, expires_at_ms=None):
        """Root of the library signs and issues; the school's people keep it."""
        root = self.library.root
        to = await lending.peer(root.client, "school")
        lent = await lending.lend(root.client, root.signer, to, capabilities, expires_at_ms=expires_at_ms)
        if hold:
            await self.ada.client.call(grid.HOLD, grid.HoldGrant(peer="library", grant=lent.grant))
        return lent.grant

    async def call(self, command="memory/write", parameters=WRITE):
        """Ada asks her own node to ask the library."""
        asked = grid.CallPeer(peer="library", command=command, parameters=parameters)
        return await self.ada.client.call(grid.CALL, asked)

    async def refused(self, command="memory/write", parameters=WRITE):
        """What the library answers when it says no, as Ada is told."""
        with pytest.raises(Refused) as caught:
            await self.call(command, parameters)
        assert caught.value.code is Code.PEER_REFUSED, caught.value
        return caught.value.detail

    def node(self):
        """The school's own node key, as somebody with its machine has it."""
        passphrase = keys.passphrase_from(f"file:{self.school.data / 'keys' / 'passphrase'}")
        return keys.Keystore.open(self.school.data / "keystore", passphrase).signer("grid")

    @contextlib.asynccontextmanager
    async def as_node(self, signer):
        """A client at the library that speaks as a node, and shows whatever grant it likes."""
        async with http.Client(self.library.address) as client:
            await seen(lambda: self.greet(client, signer))
            yield client

    async def greet(self, client, signer):
        """Open a session at the library as a node."""
        mine = await card(self.library)
        await client.greet(signer, runtime_id=mine.runtime_id, canon_fingerprint=mine.canon_fingerprint)


async def card(machine):
    return await machine.root.client.call(grid.NODE, common.Empty())


async def seen(attempt):
    """Again until the gate has seen what was recorded a moment ago."""
    async with asyncio.timeout(HEAL_S):
        while True:
            try:
                return await attempt()
            except Refused as refused:
                if refused.code is not Code.PEER_INVALID:
                    raise
                await asyncio.sleep(0.05)


async def shows(client, token):
    """A write at the library with this grant; the grant's outcome if it is refused."""
    try:
        await client.send(knowledge.MEMORY_WRITE, http.parameter_bytes(WRITE), grant=token)
    except Refused as refused:
        return refused.detail.get("grant", refused.code)
    return grant.Outcome.AUTHORIZED


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    async with machines.running(folder / "library") as library, machines.running(folder / "school") as school:
        built = Pair(library, school)
        await built.meet()
        yield built


async def test_lent_used_and_taken_back(pair):
    """Denied without the grant; with it the command runs; denied after a higher epoch without that capability."""
    told = await pair.refused()
    assert told["code"] == Code.LOA_TOO_LOW
    assert (await pair.call("ping", {})).reply["loa"] == Loa.GUEST

    await pair.lend("memory/write")
    answer = await pair.call()
    placed = (await pair.library.ledger())[0][answer.reply["seq"]]
    assert record.check_placed(placed).payload.owner == peers.owner_id(pair.node().key_id)

    await pair.lend("ping")
    told = await pair.refused()
    assert (told["code"], told["detail"]["grant"]) == (Code.GRANT_REFUSED, "NotGranted")

    calls = [one.payload for one in await records(pair.school, "peer_called")]
    assert [call.outcome for call in calls] == ["LOA_TOO_LOW", "answered", "answered", "GRANT_REFUSED"]


async def records(machine, kind):
    checked = [record.check_placed(placed) for placed in (await machine.ledger())[0]]
    return [one for one in checked if one.core.kind == kind]


async def test_over_at_its_end(pair):
    """A grant runs until its end, and not after it."""
    end_ms = clock.SystemClock().now_ms() + 3_000
    token = await pair.lend("memory/write", expires_at_ms=end_ms)
    async with pair.as_node(pair.node()) as client:
        assert await shows(client, token) is grant.Outcome.AUTHORIZED
        while clock.SystemClock().now_ms() < end_ms:
            await asyncio.sleep(0.05)
        assert await shows(client, token) == grant.Outcome.EXPIRED


async def test_another_peer_with_our_grant(pair):
    """A third node, enrolled and honest in all else, gets nothing by what was lent to the school; a stranger not even a session."""
    token = await pair.lend("memory/write")
    third = signing.Ed25519Signer.generate()
    with pytest.raises(Refused) as caught:
        await pair.greet(await pair.library.client(), third)
    assert caught.value.code is Code.PEER_INVALID
    asked = grid.EnrolPeer(peer="third", key=third.public_key.hex(), mesh=MESH, tier="trusted")
    await pair.library.root.client.call(grid.PEER_ENROL, asked)
    async with pair.as_node(third) as client:
        assert await shows(client, token) == grant.Outcome.KEY_MISMATCH
    async with pair.as_node(pair.node()) as client:
        assert await shows(client, token) is grant.Outcome.AUTHORIZED


async def test_revoked_and_restarted_with_the_old_epoch(pair):
    """The mark is in the canon: neither a restart nor another gate lets an old grant back in."""
    old = await pair.lend("memory/write")
    async with pair.as_node(pair.node()) as client:
        assert await shows(client, old) is grant.Outcome.AUTHORIZED
        root = pair.library.root
        await root.client.call(grid.GRANT_REVOKE, grid.RevokeGrants(peer="school", reason="enough"))
        async with asyncio.timeout(HEAL_S):
            while await shows(client, old) is grant.Outcome.AUTHORIZED:
                await asyncio.sleep(0.05)
        assert await shows(client, old) == grant.Outcome.SUPERSEDED
    await pair.library.stop()
    await pair.library.start()
    await pair.library.open_again()
    async with pair.as_node(pair.node()) as client:
        assert await shows(client, old) == grant.Outcome.SUPERSEDED
        newer = await pair.lend("memory/write")
        assert await shows(client, newer) is grant.Outcome.AUTHORIZED
        assert await shows(client, old) == grant.Outcome.SUPERSEDED
    assert (await pair.call()).grant_hash == grant.read(newer).grant_hash


async def test_a_grant_that_cannot_be_read_is_an_error(pair):
    """Neither a peer's nor a person's broken header is left aside."""
    async with pair.as_node(pair.node()) as client:
        for token in ("nothing", "a.b", "\xff"):
            assert await shows_error(client, token) is Code.GRANT_INVALID
    good = await pair.lend("memory/write", hold=False)
    person = await pair.library.person("bob", Loa.OPERATOR)
    assert await shows_error(person.client, good) is Code.GRANT_INVALID


async def shows_error(client, token):
    with pytest.raises(Refused) as caught:
        await client.send(gatekeeper.PING, b"{}", grant=token)
    return caught.value.code


class Terminal:
    """`sigil` as the people of both houses type it, each with a profile of their own."""

    def __init__(self, folder, pair):
        self.folder = folder
        self.pair = pair

    def login(self, name, someone):
        """The session that this person has open, as `sigil login` keeps it."""
        about = profiles.About(address=someone.client.address)
        profiles.Profile(name).keep(about=about, session=someone.client.session)

    def key_file(self, name, signer):
        """A key file, as its owner has it."""
        seed = bytes(signer._key)
        keys.write_key_file(self.folder / name, name, b"words", seed, kdf=key_format.CHEAPEST)
        (self.folder / "words").touch(0o600)
        (self.folder / "words").write_bytes(b"words")
        return ["--key", str(self.folder / name), "--passphrase", f"file:{self.folder / 'words'}"]

    async def sigil(self, profile, *words, code=0):
        """Its output; `--profile` goes before the words that a command reads by itself."""
        verb = 2 if words[1] != "peer" else 3
        argv = [sys.executable, "-m", "cli.main", *words[:verb], "--profile", profile, *words[verb:]]
        done = await asyncio.to_thread(
            subprocess.run, argv, cwd=self.folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT}
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr


async def test_by_the_command_line(pair, tmp_path, monkeypatch):
    """Cards from hand to hand, a grant signed where Root's key is, kept, used, revoked; a card that isn't the peer's stops it."""
    monkeypatch.setenv("SIGIL_HOME", str(tmp_path / "home"))
    at = Terminal(tmp_path, pair)
    at.login("library", pair.library.root)
    at.login("school", pair.school.root)
    at.login("ada", pair.ada)
    root = at.key_file("root", pair.library.root.signer)
    for house in ("library", "school"):
        (tmp_path / f"{house}.json").write_text(await at.sigil(house, "grid", "card", "--json"))

    lend = ("grid", "grant", "school", "--capability", "memory/write", "--out", "school.grant", *root)
    wrong = await at.sigil("library", *lend, "--card", "library.json", code=1)
    assert "another key than its card" in wrong
    assert "written to" in await at.sigil("library", *lend, "--card", "school.json")
    await at.sigil("ada", "grid", "hold", "library", "school.grant")
    said = ("grid", "call", "library", "memory/write", "--key", "typed", "--text", "By hand.")
    assert "peer  " in await at.sigil("ada", *said)
    assert "school" in await at.sigil("library", "grid", "grants", "--peer", "school")
    await at.sigil("library", "grid", "revoke", "school", *root)
    assert "Superseded" in await at.sigil("ada", *said, code=1)

    mesh = signing.Ed25519Signer.generate()
    word = at.key_file("mesh", mesh)
    enrol = ("grid", "peer", "enrol", "school", "--card", "school.json", "--mesh", MESH)
    await at.sigil("library", *enrol, "--mesh-key", mesh.public_key.hex(), *root)
    vouch = ("grid", "vouch", "--card", "school.json", "--mesh", MESH, "--tier", "trusted", "--out", "word")
    await at.sigil("library", *vouch, *word)
    await at.sigil("library", "grid", "peer", "tier", "school", "--membership", "word")
    assert "trusted" in await at.sigil("library", "grid", "peer", "list")
    await seen(lambda: pair.call("memory/list", {"user_id": peers.owner_id(pair.node().key_id)}))


async def test_blocked(pair):
    """Root blocks the school: neither its tier nor its grant helps, in the open session and in a new one."""
    token = await pair.lend("memory/write")
    assert (await pair.call()).reply["seq"] > 0
    async with pair.as_node(pair.node()) as client:
        await pair.library.root.client.call(grid.PEER_BLOCK, grid.BlockPeer(peer="school"))
        async with asyncio.timeout(HEAL_S):
            while await shows(client, token) is not Code.PEER_INVALID:
                await asyncio.sleep(0.05)
        assert await shows_error(client, token) is Code.PEER_INVALID
    assert (await pair.refused())["code"] == Code.PEER_INVALID
    await pair.enrol()
    async with pair.as_node(pair.node()) as client:
        await client.send(gatekeeper.PING, b"{}", grant=token)
