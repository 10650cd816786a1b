"""A house behind a gateway: a real bus, the real gatekeeper and knowledge with identities of their own, the simulator's ledger as canon.

Beside them stand a reader that serves the ledger's tiles, and projections whose answers a test can hold back or break.
"""

import asyncio
import contextlib
import dataclasses
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from services.gatekeeper import __main__ as gatekeeper_process
from services.gatekeeper.service import HANDLERS as GATE
from services.gateway.app import Gateway
from services.knowledge import __main__ as knowledge_process
from services.knowledge.service import HANDLERS as KNOWLEDGE
from sigilcore import clock, envelope, ids, permit, session, signing, tiles
from sigilcore.access import Loa
from sigilcore.contracts import canon as wire
from sigilcore.contracts import projections
from sigilcore.refusals import Code, Refused
from sigilrun import answer, service, settings, testing
from tests.services.canon_on_bus import CanonOnBus, canon_on_bus
from tests.simulator import Person

CANARY = "canary-7f3a9c"


class World:
    """Everything behind the gateway, and people with licences."""

    def __init__(self, running: testing.BusHouse, canon: CanonOnBus, folder: Path) -> None:
        """Use `world`."""
        self.folder = folder
        self.gateways = 0
        self.running = running
        self.canon = canon
        self.ledger = canon.ledger
        self.gate: service.Running
        self.slow = asyncio.Event()
        self.slow_calls = 0
        self.bob = Person("bob", keyed=False)
        self.eve = Person("eve", keyed=False)
        self.ada = Person("ada")
        self.mia = Person("mia")

    def people(self) -> None:
        """Bob and Eve hold bearer licences, Ada and Mia their own keys; Mia is a mentor."""
        self.ledger.clock.ms = clock.SystemClock().now_ms()
        for person, loa in ((self.bob, Loa.OPERATOR), (self.eve, Loa.OBSERVER), (self.ada, Loa.OPERATOR)):
            self.ledger.issue(person, loa)
        self.ledger.issue(self.mia, Loa.MENTOR)

    @contextlib.asynccontextmanager
    async def gateway(
        self, *, folder: Path | None = None, now_s: Callable[[], float] = time.time, **options: Any
    ) -> AsyncIterator["Face"]:
        """A gateway on a free port with its own connection, and a state folder of its own unless one is given."""
        bus = await self.running.bus("gateway")
        chosen = settings.Gateway(**({"port": 0, "cookie_secure": False} | options))
        self.gateways += 1
        kept = folder or self.folder / f"gateway-{self.gateways}"
        kept.mkdir(parents=True, exist_ok=True)
        one = Gateway(bus, chosen, self.running.deployment, kept, now_s=now_s)
        async with one.serving(patience_s=5), aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield Face(one, http)

    def counted(self) -> dict[str, int]:
        """What the gate counted since it was asked last."""
        summary = self.gate.service.refusals.take(self.gate.parts.clock.now_ms())
        return {} if summary is None else dict(summary.counts)

    # Those who answer in this file.

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """The reader's files and projections."""
        reader, views = await self.running.bus("canon_reader"), await self.running.bus("projections")
        files = await reader.serve("canon_reader", {wire.TILE: self._tile, wire.ENTRIES: self._entries})
        views_answering = await views.serve(
            "projections", {projections.STATUS: self._break, projections.STATISTICS: self._wait}
        )
        for one in (files, views_answering, *self.canon._answering):
            one.state = "serving"
        stack.push_async_callback(files.stop)
        stack.push_async_callback(views_answering.stop)

    async def _tile(self, incoming: answer.Incoming) -> wire.LogBytes:
        level, index, width = tiles.parse_path(msgspec.json.decode(incoming.body, type=wire.LogPart).path)
        leaves = self.canon.leaves(len(self.ledger.log))
        if level != 0 or len(leaves) < index * 256 + width:
            raise Refused(Code.NOT_FOUND, "no such tile")
        return wire.LogBytes(body=b"".join(leaves[index * 256 : index * 256 + width]))

    async def _entries(self, incoming: answer.Incoming) -> wire.LogBytes:
        self._checked(incoming)
        _, index, width = tiles.parse_path(msgspec.json.decode(incoming.body, type=wire.LogPart).path)
        entries = [bytes(one.header) for one in self.ledger.log[index * 256 : index * 256 + width]]
        return wire.LogBytes(body=tiles.entry_bundle(entries))

    async def _break(self, incoming: answer.Incoming) -> msgspec.Struct:
        self._checked(incoming)
        raise RuntimeError(f"{CANARY}: the password is hunter2")

    async def _wait(self, incoming: answer.Incoming) -> projections.Statistics:
        self._checked(incoming)
        self.slow_calls += 1
        await self.slow.wait()
        return projections.Statistics(position=1, counts={})

    def _checked(self, incoming: answer.Incoming) -> permit.Bound:
        key = self.ledger.state.service_key("gatekeeper")
        assert key is not None
        return permit.check(
            incoming.permit,
            incoming.body,
            gatekeeper_key=key,
            runtime_id=self.ledger.runtime_id,
            tenant="default",
            service=incoming.command.service,
            command=incoming.command.name,
            now_ms=clock.SystemClock().now_ms(),
        )


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer, read."""

    status: int
    headers: Any
    body: bytes
    cookies: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem's code, or OK."""
        return self.json["code"] if self.status >= 400 else "OK"


class Face:
    """A gateway and a browser that sends exactly what it is told."""

    def __init__(self, gateway: Gateway, http: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.http = http
        self.address = f"http://127.0.0.1:{gateway.port}"

    async def send(self, method: str, path: str, body: Any = None, **headers: str | None) -> Answer:
        """One request. Plain data is sent as JSON; bytes as they are, with the headers given."""
        sent = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None and not any(name.lower() == "content-type" for name in sent):
            sent["content-type"] = "application/json"
        url = self.address + path
        async with self.http.request(
            method,
            aiohttp.client.URL(url, encoded=True),
            data=data and io.BytesIO(data),
            headers=sent,
            allow_redirects=False,
        ) as reply:
            return Answer(reply.status, reply.headers.copy(), await reply.read(), reply.cookies)

    async def call(self, name: str, body: Any = None, **headers: str | None) -> Answer:
        """`POST /api/commands/<name>`."""
        return await self.send("POST", f"/api/commands/{name}", body, **headers)

    async def login(self, person: Person, **headers: str | None) -> tuple[str, str]:
        """A bearer session: its token, and the cookie as a browser sends it."""
        nonce = (await self.call("session/challenge", **headers)).json["nonce"]
        opened = await self.call("session/open", {"license": person.toml, "nonce": nonce}, **headers)
        assert opened.status == 200, opened.body
        return opened.json["token"], f"sigil_session={opened.cookies['sigil_session'].value}"

    async def csrf(self, cookie: str) -> str:
        """The cookie's CSRF token."""
        return str((await self.send("POST", "/api/csrf/token", cookie=cookie)).json["token"])


def token_of(session_id: str, licence_id: str) -> str:
    """What a gatekeeper would seal."""
    said = session.SessionToken(
        session_id=session_id,
        runtime_id=ids.new(),
        tenant="default",
        licence_id=licence_id,
        owner_id="bob",
        loa=Loa.OPERATOR,
        session_key=None,
        mutations=(),
        mutations_not_after_ms=0,
        not_after_ms=0,
    )
    return envelope.seal(signing.Ed25519Signer.generate(), signing.SESSION, said)


def bearer(token: str) -> str:
    """As the Authorization header says it."""
    return f"Bearer {token}"


async def raw(face: Face, data: bytes, *, then: float = 5.0) -> bytes:
    """Bytes on a fresh connection; what comes back until it is closed, or `then` seconds have passed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", face.gateway.port)
    writer.write(data)
    received = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(then):
            while chunk := await reader.read(65536):
                received += chunk
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return received


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """A founded house with people, everything serving."""
    async with canon_on_bus(folder) as (running, canon), contextlib.AsyncExitStack() as stack:
        canon.ledger.found()
        canon.ledger.open_instances("gatekeeper", "license")
        canon.ledger.root_licence()
        one = World(running, canon, folder.parent / "state")
        one.people()
        await canon.publish()
        await one.start(stack)
        one.gate = await stack.enter_async_context(
            service.running("gatekeeper", gatekeeper_process.build, GATE, running.settings("gatekeeper"))
        )
        known = await stack.enter_async_context(
            service.running("knowledge", knowledge_process.build, KNOWLEDGE, running.settings("knowledge"))
        )
        async with asyncio.timeout(20):
            await one.gate.ready.wait()
            await known.ready.wait()
        yield one
