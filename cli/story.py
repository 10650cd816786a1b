"""The story of the house, in steps that anyone can import: what is done, and what must be seen.

Each step does something as its people would, over HTTP, with keys of their own, and holds what it sees against what must be true; the
first thing that doesn't hold raises `Broken`. The offline steps at the end need files only: no server is asked.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from cli import importing, ledger, owner
from sigilcore import canonical, ids, merkle, signing, trust
from sigilcore import replay as replaying
from sigilcore import verify as verifying
from sigilcore.access import Loa
from sigilcore.contracts import canon, gatekeeper, house, knowledge, quorum
from sigilcore.contracts import license as licensing
from sigilcore.contracts.common import Empty
from sigilcore.refusals import Code, Refused
from sigilrun import consume, http, keys, postgres, settings
from sigilrun.bus import Bus
from sigilrun.embedded import folder
from sigilrun.follow import Follower
from sigilrun.house import ROLES, Layout
from sigilrun.settings import DeploymentFile

MENTORS: Final = ("ada", "barbara", "claude", "dorothy")
K: Final = 3
FOR_YEARS: Final = "2035-01-01T00:00:00.000Z"
BOOKS: Final = (
    Path("/usr/share/doc/rust-doc/html/book"),
    Path(__file__).resolve().parents[1] / ".cache/rust-doc/usr/share/doc/rust-doc/html/book",
)
BOOK_LICENCE: Final = "MIT OR Apache-2.0"
# Small batches, so that there is always an import under way while the house loses a process.
BATCH_ITEMS: Final = 8
# How far an import may go on beside one process's return, before the next is killed.
BATCHES_PER_KILL: Final = 3
HEAL_S: Final = 60.0
POLL_S: Final = 0.05
KNOCKS: Final = 5

# A level weighs more and the base less, so an observer may not execute any more, and an operator writes as before.
STRICTER: Final = trust.TrustModel(
    version="stricter-2",
    weights=msgspec.structs.replace(trust.DEFAULT_MODEL.weights, loa=22_000_000),
    bias=1_000_000,
    threshold=0,
)


class Broken(Exception):  # noqa: N818 - what the promise is
    """Something that must hold didn't."""


def hold(true: object, what: str) -> None:
    """Go on only if it is true."""
    if not true:
        raise Broken(what)


class Person:
    """Somebody with a licence; with a key of their own, unless the licence is a bearer document."""

    def __init__(self, owner_id: str, signer: signing.Signer | None, client: http.Client) -> None:
        """`client` speaks for nobody until `enter`."""
        self.owner_id = owner_id
        self.signer = signer
        self.client = client
        self.toml = ""

    async def enter(self) -> None:
        """Open a session."""
        await self.client.login(self.toml, owner=self.signer)


class Witnessed(msgspec.Struct, frozen=True, kw_only=True):
    """One acknowledged document."""

    id: str
    seq: int
    hash: str


class Subscriber:
    """A downstream view in memory: every event in order, each covered by a signed checkpoint before it is seen."""

    name = "subscriber-story"

    def __init__(self) -> None:
        """Nothing has been seen."""
        self.at = consume.START
        self.seen: list[str] = []
        self.kinds: dict[str, int] = {}

    async def position(self) -> consume.Position:
        """Where to go on."""
        return self.at

    async def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """Take the next events."""
        for event in events:
            hold(event.seq == len(self.seen), f"the subscriber got seq {event.seq} where {len(self.seen)} was to come")
            self.seen.append(event.header.hash)
            self.kinds[event.kind] = self.kinds.get(event.kind, 0) + 1
        self.at = position


class Story:
    """A stack at rest on its data folder, a work folder for its people's files, and what has happened so far."""

    def __init__(self, address: str, data: Path, work: Path) -> None:
        """Nothing has happened."""
        self.address = address
        self.data = data
        self.work = work
        self.people: dict[str, Person] = {}
        self.genesis = ""
        self.seal = ""
        self.model_record = ""
        self.acknowledged: dict[str, Witnessed] = {}
        self.documents: list[importing.Document] = []
        self.killed: list[str] = []
        self.subscriber = Subscriber()
        self.exported = work / "ledger.jsonl"
        self.size = 0
        self._passphrase = b"the story's own"
        self._stack = contextlib.AsyncExitStack()
        self._following: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin."""
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of connections."""
        self._stop.set()
        if self._following is not None:
            await asyncio.gather(self._following, return_exceptions=True)
        await self._stack.aclose()

    # People

    @property
    def root(self) -> Person:
        """Who founded the canon."""
        return self.people["root"]

    async def meet(self, owner_id: str, *, keyed: bool) -> Person:
        """A person, with a key file of their own if `keyed`."""
        signer: signing.Signer | None = None
        if keyed:
            path = self.work / f"{owner_id}.key.json"
            keys.write_key_file(path, owner_id, self._passphrase)
            signer = keys.open_key_file(path, self._passphrase)
        client = await self._stack.enter_async_context(http.Client(self.address, owner=signer))
        self.people[owner_id] = person = Person(owner_id, signer, client)
        return person

    async def license(self, owner_id: str, loa: Loa, *, keyed: bool) -> Person:
        """Root issues a licence; the licensee opens a session with it."""
        person = await self.meet(owner_id, keyed=keyed)
        asked = licensing.CreateLicense(
            owner_id=owner_id,
            owner_name=owner_id.capitalize(),
            loa=loa,
            expires_at=FOR_YEARS,
            owner_key=None if person.signer is None else person.signer.public_key.hex(),
            id=ids.new(),
        )
        created = await owner.create_license(self.root.client, asked, self.root.signer)
        person.toml = created.toml
        await person.enter()
        return person

    # The steps

    async def found(self) -> str:
        """Root, once."""
        token = folder.DataFolder(self.data).bootstrap_token_file.read_text("ascii").strip()
        deployed = canonical.typed(
            canonical.parse((self.data / "deployment.json").read_bytes()), settings.DeploymentFile
        )
        root, thief = await self.meet("root", keyed=True), await self.meet("thief", keyed=True)
        assert root.signer is not None
        assert thief.signer is not None
        await refuses(
            Code.BOOTSTRAP_REFUSED,
            owner.bootstrap(thief.client, thief.signer, token="a guess", owner_id="thief", owner_name="Thief"),  # noqa: S106
        )
        done = await owner.bootstrap(
            root.client, root.signer, token=token, owner_id="root", owner_name="Root", deployed=deployed
        )
        self.genesis, root.toml = done.genesis_hash or "", done.toml or ""
        await refuses(
            Code.ALREADY_BOOTSTRAPPED,
            owner.bootstrap(thief.client, thief.signer, token=token, owner_id="thief", owner_name="Thief"),
        )
        await http.persistently(root.enter, give_up_s=HEAL_S)
        return f"Root founded the canon; genesis {self.genesis}; a second bootstrap was refused"

    async def appoint(self) -> str:
        """Four mentors with keys of their own."""
        for name in MENTORS:
            await self.license(name, Loa.MENTOR, keyed=True)
        return f"{len(MENTORS)} mentors hold licences that Root itself signed: {', '.join(MENTORS)}"

    async def register(self) -> str:
        """The mentors become witnesses: each proves its key, and all before it agree."""
        for index, name in enumerate(MENTORS):
            proposal_id = await self.propose_witness(name)
            for voice in MENTORS[:index]:
                await self.attest(proposal_id, voice)
            await refuses(Code.QUORUM_NOT_SATISFIED, self.commit(proposal_id))
            await self.attest(proposal_id, name)
            await self.commit(proposal_id)
        listed = await self.root.client.call(quorum.WITNESS_LIST, Empty())
        hold(listed.active == len(MENTORS) and listed.quorum is None, "four active witnesses, not sealed")
        return f"{listed.active} witnesses, each by its own proof of possession and the voices of all before it"

    async def propose_witness(self, name: str) -> str:
        """Root proposes a mentor's key as a voice."""
        mentor, root = self.people[name], self.root
        assert mentor.signer is not None
        assert root.signer is not None
        page = await root.client.call(licensing.LIST, licensing.ListLicenses(limit=500))
        held = owner.mentor_licence(page.items, name)
        change = quorum.WitnessChange(witness_id=name, name=name.capitalize(), key=mentor.signer.public_key.hex())
        opened = await owner.propose_witness(root.client, root.signer, "add", change, held.license_id)
        hold(opened.proposal_id, "a proposal was opened")
        return opened.proposal_id or ""

    async def attest(self, proposal_id: str, name: str) -> quorum.Tally:
        """A witness reads the proposal on its own side and signs it there."""
        person = self.people[name]
        assert person.signer is not None
        read = await owner.read_proposal(person.client, proposal_id)
        return await owner.attest(person.client, read, name, person.signer)

    async def commit(self, proposal_id: str) -> quorum.Committed:
        """Root commits."""
        asked = quorum.ProposalId(proposal_id=proposal_id, id=ids.new())
        return await self.root.client.call(quorum.COMMIT, asked)

    async def close_the_door(self) -> str:
        """The seal: from now on every change needs three of four."""
        root = self.root
        assert root.signer is not None
        payload = owner.seal_payload(K, kinds={}, proposal_ttl_s=86_400)
        opened = await owner.propose(root.client, root.signer, "quorum_policy", payload)
        for name in MENTORS:
            await self.attest(opened.proposal_id, name)
        done = await self.commit(opened.proposal_id)
        self.seal = done.hash
        listed = await root.client.call(quorum.WITNESS_LIST, Empty())
        hold(listed.quorum == K, f"the quorum in force is {K}")
        return f"sealed with {K} of {listed.active}; seal {done.hash}"

    async def hire(self) -> str:
        """People below mentor; below it a licence may be a bearer document."""
        await self.license("olga", Loa.OPERATOR, keyed=False)
        await self.license("otto", Loa.OBSERVER, keyed=False)
        await self.license("gus", Loa.GUEST, keyed=False)
        return "an operator, an observer and a guest hold bearer licences"

    async def change_the_model(self) -> str:
        """A trust model: two voices are not enough, three are."""
        root, observer = self.root, self.people["otto"]
        assert root.signer is not None
        before = await self.stands(observer, "execute", "module")
        opened = await owner.propose_model(root.client, root.signer, STRICTER)
        proposal_id = opened.proposal_id or ""
        for name in MENTORS[:2]:
            await self.attest(proposal_id, name)
        short = await refuses(Code.QUORUM_NOT_SATISFIED, self.commit(proposal_id))
        told = short.detail or {}
        hold(short.code.status == 409 and (told.get("have"), told.get("need")) == (2, K), f"409 with 2 of {K}: {told}")
        tally = await self.attest(proposal_id, MENTORS[2])
        hold((tally.have, tally.state) == (K, "ready"), f"ready with {K}: {tally}")
        done = await self.commit(proposal_id)
        self.model_record = done.id
        await root.client.call(gatekeeper.MODEL_REFRESH, Empty())
        after = await self.stands(observer, "execute", "module")
        writes = await self.stands(self.people["olga"], "write", "memory")
        hold(before.allowed and not after.allowed, f"an observer's execute: {before.score} then {after.score}")
        hold(after.model == STRICTER.version and writes.allowed, "the new model decides, and operators write")
        return (
            f"with 2 voices refused (409, have 2 need {K}), with {K} committed at seq {done.seq}; "
            f"an observer's execute went from {before.score} allowed to {after.score} denied"
        )

    async def stands(self, person: Person, action: str, target: str) -> gatekeeper.TrustAnswer:
        """Where a person stands."""
        return await person.client.call(gatekeeper.TRUST_CHECK, gatekeeper.TrustCheck(action=action, target=target))

    # Under way: a subscriber, an import, and a house that loses every process once

    async def subscribe(self) -> str:
        """A downstream consumer with the subscriber's own bus identity; holes are filled through the operator's."""
        bus, pager = await self.connect(house.SUBSCRIBER.name), await self.connect(house.OPERATOR.name)
        deployed = msgspec.json.decode((self.data / "deployment.json").read_bytes(), type=DeploymentFile)
        self._following = asyncio.create_task(
            consume.consume(
                bus,
                self.subscriber,
                tenant=deployed.tenant,
                # Not started: it reads what governs when a checkpoint asks for it, which is when the log's key was rotated.
                log_key=Follower(pager, deployed).opened,
                stop=self._stop,
                pager=lambda asked: pager.call(canon.EVENTS, asked),
            )
        )
        await self.until(lambda: len(self.subscriber.seen) > 0, "the subscriber sees the first event")
        return "a subscriber follows the change stream and checks every event under a signed checkpoint"

    async def connect(self, name: str) -> Bus:
        """A bus connection of one of the operator's identities, closed at the end."""
        bus = await ledger.connect(self.data, name)
        self._stack.push_async_callback(bus.close)
        return bus

    async def import_the_book(self, *, kill: bool = True) -> str:
        """The pages of The Rust Programming Language as an operator's documents, while every process is killed once."""
        self.documents = read_book()
        writer = self.people["olga"]
        assert writer.client.session is not None
        namespace = importing.namespace(writer.client.session)
        victims = (
            sorted(self.running().processes, key=lambda name: (name in {"nats", "postgres"}, name)) if kill else []
        )
        enough = len(victims) * (BATCHES_PER_KILL + 1) < len(self.documents) // BATCH_ITEMS
        hold(enough, "there are more batches than the processes to kill take")
        killing: asyncio.Task[None] | None = None
        since = 0
        async for step in importing.send(writer.client, self.documents, namespace, give_up_s=HEAL_S, most=BATCH_ITEMS):
            for result in step.results:
                hold(result.refusal is None and result.seq is not None, f"{result.key}: {result.refusal}")
                self.acknowledged[result.key] = Witnessed(id=result.id, seq=result.seq or 0, hash=result.hash or "")
            since += 1
            if killing is not None and (killing.done() or since > BATCHES_PER_KILL):
                await killing
                killing = None
            if victims and killing is None:
                # It strikes while the next batch is under way.
                killing, since = asyncio.create_task(self.kill(victims.pop(0))), 0
        if killing is not None:
            await killing
        for name in victims:
            raise Broken(f"the import ended before {name} was killed")
        hold(len(self.acknowledged) == len(self.documents), "every page was acknowledged")
        killed = f"; killed with kill -9 meanwhile, each once: {', '.join(self.killed)}" if self.killed else ""
        return f"{len(self.documents)} pages of the Rust book are documents of olga's{killed}"

    async def kill(self, name: str) -> None:
        """`kill -9` one process now; return when another stands in its place and the house is ready."""
        pid = self.running().processes[name]
        os.kill(pid, signal.SIGKILL)
        self.killed.append(name)
        await self.until(lambda: self.running().processes.get(name, pid) != pid, f"{name} was started again")
        async with asyncio.timeout(HEAL_S):
            while not await self.is_serving():
                await asyncio.sleep(POLL_S)

    async def is_serving(self) -> bool:
        """True if every part of the house answers."""
        with contextlib.suppress(http.Unreachable, ValueError):
            status, body = await self.root.client.fetch("GET", "/readyz")
            return status == 200 and json.loads(body).get("state") == "serving"
        return False

    def running(self) -> folder.RunInfo:
        """What run.json says."""
        info = folder.running(self.data)
        if info is None:
            raise Broken("the supervisor is gone")
        return info

    async def count_the_pages(self) -> str:
        """Nothing acknowledged is lost, nothing is doubled; a page sent again is the same record."""
        operator = await self.connect(house.OPERATOR.name)
        places: dict[str, list[Witnessed]] = {}
        async for placed in ledger.events(operator):
            header = json.loads(bytes(placed.header))
            if header["core"]["kind"] == "document":
                at = Witnessed(id=header["core"]["id"], seq=placed.seq, hash=header["hash"])
                places.setdefault(at.id, []).append(at)
        hold(all(len(found) == 1 for found in places.values()), "no document stands twice")
        hold(
            {found[0] for found in places.values()} == set(self.acknowledged.values()),
            f"{len(places)} documents stand in the log, {len(self.acknowledged)} were acknowledged, and they are the same",
        )
        again = await self.send_again(self.documents[:BATCH_ITEMS])
        hold(all(result.existing for result in again), "pages sent again are answered as existing")
        return f"{len(places)} documents in the log, each once, each where it was acknowledged; sent again: existing"

    async def send_again(self, documents: list[importing.Document]) -> list[knowledge.BatchResult]:
        """The same files with the same ids."""
        client = self.people["olga"].client
        assert client.session is not None
        namespace = importing.namespace(client.session)
        results: list[knowledge.BatchResult] = []
        async for step in importing.send(client, documents, namespace, most=BATCH_ITEMS):
            results += step.results
        return results

    # Who may not

    async def refuse_a_guest(self) -> str:
        """A licensed guest writes: refused, and the refusal is on record."""
        asked = knowledge.MemoryWrite(key="note", text="I was here", id=ids.new())
        refused = await refuses(Code.LOA_TOO_LOW, self.people["gus"].client.call(knowledge.MEMORY_WRITE, asked))
        name = decision_name(refused)
        view = await self.root.client.call(canon.AUDIT_GET, canon.AuditGet(id=name))
        chain = find_chain(view.payload)
        hold(chain.get("verdict") == "Deny", f"the recorded verdict of {name}: {chain.get('verdict')}")
        hold(chain["audit"]["owner"] == "gus" and chain["command"] == "memory/write", "who and what is on record")
        return f"a guest's memory/write was refused ({refused.code}) and stands in the log as decision {name}"

    async def refuse_a_stranger(self) -> str:
        """A stranger calls: refused without a record, and counted in a summary."""
        stranger = await self._stack.enter_async_context(http.Client(self.address))
        for _ in range(KNOCKS):
            await refuses(Code.SESSION_MISSING, stranger.call(knowledge.MEMORY_LIST, knowledge.MemoryList()))
        counted = 0

        async def look() -> bool:
            nonlocal counted
            counted = await self.summarised(Code.SESSION_MISSING)
            return counted >= KNOCKS

        async with asyncio.timeout(2 * HEAL_S + 30):
            while not await look():
                await asyncio.sleep(0.5)
        return f"a stranger was refused {KNOCKS} times without a record; a refusal_summary counts {counted}"

    async def summarised(self, code: Code) -> int:
        """How many refusals of this code the summaries hold."""
        counted = 0
        cursor: str | None = None
        while True:
            asked = canon.ListRecords(kind="refusal_summary", cursor=cursor, limit=200)
            page = await self.root.client.call(canon.AUDIT_LIST, asked)
            counted += sum(int(view.payload["counts"].get(code.value, 0)) for view in page.items)
            if (cursor := page.cursor) is None:
                return counted

    # Evidence, taken while the house runs and judged without it

    async def take_evidence(self) -> str:
        """Bundles of a system change and a document, and the whole ledger up to a checkpoint."""
        document = next(iter(self.acknowledged.values())).id
        for name, record_id in (("change", self.model_record), ("document", document)):
            body = http.parameter_bytes({"id": record_id})
            self.bundle(name).write_bytes(await self.root.client.send(canon.PROOF, body))
        self.size = await ledger.export(self.data, self.exported)
        await self.until(lambda: len(self.subscriber.seen) >= self.size, "the subscriber has seen all of it")
        return f"{self.size} records and two bundles written to files; the subscriber saw every event up to there, in order"

    def bundle(self, name: str) -> Path:
        """Where a bundle is kept."""
        return self.work / f"{name}.bundle.json"

    def verify_offline(self) -> str:
        """Bundles verify by the library, and by the command with no server; with a byte changed they don't."""
        for name in ("change", "document"):
            path = self.bundle(name)
            hold(
                verifying.verified(verifying.verify(verifying.read(path.read_bytes()), self.genesis)),
                f"{path} verifies",
            )
            hold(sigil("verify", str(path), "--genesis", self.genesis) == 0, f"sigil verify {path}")
        spoilt = self.work / "spoilt.bundle.json"
        spoilt.write_bytes(self.bundle("document").read_bytes().replace(b"Rust", b"Rusk", 1))
        hold(sigil("verify", str(spoilt), "--genesis", self.genesis) == 1, "a changed bundle doesn't verify")
        return "both bundles verify with no server running; one with a changed byte doesn't"

    def replay_offline(self) -> str:
        """The whole ledger judged again from the pinned genesis; the fingerprints."""
        report = ledger.replay(self.exported, self.genesis)
        hold(report.records == self.size and report.genesis == self.genesis, "the replay covers the whole export")
        leaves = [line["header"] for line in self.lines()]
        hold([leaf["hash"] for leaf in leaves] == self.subscriber.seen[: self.size], "the subscriber saw these records")
        root = merkle.root([merkle.leaf_hash(canonical.encode(leaf)) for leaf in leaves])
        hold(root.hex() == report.root, "the tree's root, computed anew")
        return (
            f"{report.records} records, {report.decisions} decisions, {report.effects} effects judged again; "
            f"genesis {report.genesis}, seal {self.seal}, root {report.root}"
        )

    def tamper_with_a_copy(self) -> str:
        """One byte of one record changed in a copy is found, and named."""
        victim = sorted(self.acknowledged.values(), key=lambda at: at.seq)[len(self.acknowledged) // 2]
        copy = self.work / "tampered.jsonl"
        lines = self.exported.read_bytes().splitlines(keepends=True)
        line = lines[victim.seq + 1]
        at = line.index(b'"text":"') + len(b'"text":"') + 20
        lines[victim.seq + 1] = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
        copy.write_bytes(b"".join(lines))
        try:
            ledger.replay(copy, self.genesis)
        except replaying.Diverged as diverged:
            hold(diverged.seq == victim.seq, f"the changed record is {victim.seq}, the replay names {diverged.seq}")
            return f"one byte changed in a copy: the replay stops at {diverged}"
        raise Broken("a changed byte was not found")

    async def tamper_with_a_database(self, address: str, data: Path) -> str:
        """One byte changed in the database of a house that runs on a copy: it is found and named, and all else is read."""
        victim = sorted(self.acknowledged.values(), key=lambda at: at.seq)[len(self.acknowledged) // 3]
        await _change_a_byte(data, victim.seq)
        async with http.Client(address, owner=self.root.signer) as client:
            await http.persistently(lambda: client.login(self.root.toml, owner=self.root.signer), give_up_s=HEAL_S)
            found, read, cursor = list[canon.CorruptAt](), 0, None
            while True:
                page = await client.call(canon.LIST, canon.ListRecords(kind="document", cursor=cursor, limit=200))
                found += page.corrupt
                read += len(page.items)
                if (cursor := page.cursor) is None:
                    break
        hold([one.seq for one in found] == [victim.seq], f"the changed record is {victim.seq}, the house names {found}")
        hold(read == len(self.acknowledged) - 1, f"{read} of {len(self.acknowledged)} documents are read beside it")
        return f"one byte changed in the database of a copy: seq {victim.seq} is named ({found[0].reason}), the other {read} are read"

    def lines(self) -> list[dict[str, Any]]:
        """The exported records."""
        return [json.loads(line) for line in self.exported.read_bytes().splitlines()[1:]]

    async def until(self, true: Any, what: str, timeout_s: float = HEAL_S) -> None:
        """Wait until it is true."""
        deadline = time.monotonic() + timeout_s
        while not true():
            if self._following is not None and self._following.done():
                self._following.result()
            hold(time.monotonic() < deadline, f"in {timeout_s:g} s: {what}")
            await asyncio.sleep(POLL_S)


ONLINE: Final = (
    Story.found,
    Story.appoint,
    Story.register,
    Story.close_the_door,
    Story.hire,
    Story.change_the_model,
    Story.subscribe,
    Story.import_the_book,
    Story.count_the_pages,
    Story.refuse_a_guest,
    Story.refuse_a_stranger,
    Story.take_evidence,
)
OFFLINE: Final = (Story.verify_offline, Story.replay_offline, Story.tamper_with_a_copy)


async def _change_a_byte(data: Path, seq: int) -> None:
    """What nobody may do, as the database's owner can: he takes the guard off, and puts it back."""
    ports = json.loads((data / "ports.json").read_bytes())
    options = settings.Canon(
        host="127.0.0.1",
        port=ports["postgres"],
        database="sigil",
        user=ROLES[0],
        password_file=Layout(data).role_password(ROLES[0]),
    )
    connection = await postgres.connect(options, application="somebody with the whole machine")
    try:
        async with connection.transaction():
            await connection.execute("alter table canon.record disable trigger user")
            await connection.execute(
                "update canon.record set payload = set_byte(payload, 40, get_byte(payload, 40) # 1) where seq = $1", seq
            )
            await connection.execute("alter table canon.record enable trigger user")
    finally:
        await connection.close()


async def refuses(code: Code, asked: Any) -> Refused:
    """What was asked must be refused with this code."""
    try:
        answer = await asked
    except Refused as refused:
        hold(refused.code is code, f"refused with {refused.code} ({refused.message}), not {code}")
        return refused
    raise Broken(f"answered {answer}, not refused with {code}")


def decision_name(refused: Refused) -> str:
    """The recorded decision that a refusal names: `<record id>.<index>`."""
    named = (refused.detail or {}).get("decision")
    if isinstance(named, dict):
        return f"{named['record']}.{named['index']}"
    hold(isinstance(named, str), f"the refusal names its decision: {refused.detail}")
    return str(named)


def find_chain(payload: Any) -> dict[str, Any]:
    """The reasoning chain in what audit/get shows of one decision."""
    found = payload
    if "decisions" in found:
        found = found["decisions"][0]
    chain = found.get("chain", found)
    hold(isinstance(chain, dict), "a decision has a chain")
    return dict(chain)


def read_book() -> list[importing.Document]:
    """Every page of the book but the one that repeats them all."""
    root = next((path for path in BOOKS if path.is_dir()), None)
    if root is None:
        raise Broken("rust-doc is missing: make corpus, or apt-get install rust-doc")
    pages = [(path, name) for path, name in importing.files([root]) if name != "print.html"]
    found = (
        importing.document(path, name, prefix="rust-book", licence=BOOK_LICENCE, source=f"rust-doc: book/{name}")
        for path, name in pages
    )
    return [page for page in found if page is not None]


def sigil(*words: str) -> int:
    """Run the command; its exit code."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-P", "-m", "cli.main", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode
