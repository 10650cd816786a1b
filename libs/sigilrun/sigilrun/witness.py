"""A witness of transparency logs as a server (C2SP tlog-witness): anybody can run it, for anybody's logs.

    POST /add-checkpoint                       judged by `sigilcore.witness`, persisted by `witness_store`
    GET  /<hex sha256(origin)>/checkpoint      the newest checkpoint of a log that was cosigned, for monitors
    GET  /healthz                              whether the state can be read

Invariants:

- no cosignature leaves before its checkpoint is durable; what the store can't do is answered 500, and no line with it;
- all state is read and written by one thread, so requests are judged one after the other;
- a request has a size, a time to arrive in, and a place among those in flight, or it is refused (413, 408, 503);
- what convicts a log is kept as evidence and logged as critical, once.
"""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from sigilcore import checkpoint, clock, note, signing, witness
from sigilrun import telemetry, witness_store

MAX_IN_FLIGHT = 64  # bodies of up to a MiB that strangers can make us hold
ARRIVE_S = 10.0
CACHE_S = 5
STOP_S = 5.0
LINGER_S = 1.0  # for the rest of a request that was answered before it had arrived

T = TypeVar("T")


class Witness:
    """One cosigner: its name and key, the logs it knows, its state."""

    def __init__(
        self, *, name: str, signer: signing.Signer, logs: witness.Logs, store: witness_store.Store, now: clock.Clock
    ) -> None:
        """Raises `note.NoteError` for a name that can't be a key's."""
        self.key = note.VerifierKey.of(name, note.COSIGNATURE, signer.public_key)
        self._signer = signer
        self._logs = logs
        self._store = store
        self._clock = now

    def add_checkpoint(self, data: bytes) -> tuple[int, str, str]:
        """Judge, persist, cosign: status, body, content type."""
        opened = witness.open_request(data, self._logs)
        if isinstance(opened, witness.Rejected):
            return opened.status, opened.body, opened.content_type
        now_s = self._clock.now_ms() // 1000
        settled = self._store.settle(opened, functools.partial(self._cosign, now_s), now_s)
        origin, size = opened.checkpoint.origin, opened.checkpoint.size
        if settled.evidence is not None:
            found = settled.evidence
            tell = telemetry.log.critical if found.convicts else telemetry.log.warning
            event = "log_contradiction" if found.convicts else "checkpoint_not_proven"
            tell(event, origin=origin, size=size, reason=found.reason, note=found.note, held=found.held)
        outcome = settled.outcome
        if isinstance(outcome, witness.Rejected):
            telemetry.log.info("rejected", origin=origin, size=size, status=outcome.status, reason=outcome.reason)
            return outcome.status, outcome.body, outcome.content_type
        telemetry.log.info("cosigned", origin=origin, size=size, root=opened.checkpoint.root.hex())
        return 200, settled.line, witness.TEXT_TYPE

    def newest(self, hashed: str) -> bytes | None:
        """The checkpoint of the log whose origin has this hash."""
        return self._store.newest(bytes.fromhex(hashed))

    def health(self) -> dict[str, object]:
        """Who it is and how far it has seen each log."""
        return {"vkey": self.key.format(), "logs": sorted(self._logs), "sizes": self._store.sizes()}

    def _cosign(self, now_s: int, text: str) -> str:
        return checkpoint.cosign(text, self.key.name, self._signer, now_s)


class Face:
    """The witness over HTTP."""

    def __init__(self, one: Witness) -> None:
        """Serve it with `serving`."""
        self._witness = one
        self._in_flight = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="witness")

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=checkpoint.MAX_REQUEST_BYTES, middlewares=[_hide_faults])
        app.router.add_post("/add-checkpoint", self.add_checkpoint)
        app.router.add_get("/{origin:[0-9a-f]{64}}/checkpoint", self.newest)
        app.router.add_get("/healthz", self.health)
        return app

    async def add_checkpoint(self, request: web.Request) -> web.Response:
        """`POST /add-checkpoint`."""
        if self._in_flight >= MAX_IN_FLIGHT:
            return _text(503, "too much in flight\n", headers={"Retry-After": "1"})
        self._in_flight += 1
        try:
            async with asyncio.timeout(ARRIVE_S):
                data = await request.read()
            status, body, content_type = await self._state(lambda: self._witness.add_checkpoint(data))
        except TimeoutError:
            return _text(408, "the request did not arrive in time\n")
        except (web.RequestPayloadError, ConnectionError):
            return _text(400, "the body is not what its head says\n")
        finally:
            self._in_flight -= 1
        return web.Response(status=status, body=body.encode(), headers={"Content-Type": content_type})

    async def newest(self, request: web.Request) -> web.Response:
        """`GET /<hex sha256(origin)>/checkpoint`."""
        hashed = request.match_info["origin"]
        found = await self._state(lambda: self._witness.newest(hashed))
        if found is None:
            return _text(404, "never cosigned\n")
        headers = {"Content-Type": witness.TEXT_TYPE, "Cache-Control": f"max-age={CACHE_S}"}
        return web.Response(body=found, headers=headers)

    async def health(self, _: web.Request) -> web.Response:
        """`GET /healthz`."""
        return web.json_response(await self._state(self._witness.health))

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._thread.shutdown()

    async def _state(self, work: Callable[[], T]) -> T:
        # Shielded: what was begun is finished and answered to nobody, if the caller has gone.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))


@contextlib.asynccontextmanager
async def serving(one: Witness, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve until the block is left; the address."""
    face = Face(one)
    runner = web.AppRunner(face.application(), access_log=None, shutdown_timeout=STOP_S, lingering_time=LINGER_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        yield f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()
        face.close()


@contextlib.contextmanager
def opened(*, name: str, signer: signing.Signer, vkeys: Iterable[str], state: Path) -> Iterator[Witness]:
    """A witness of these logs on its state folder. Raises `note.NoteError`, `witness_store.Unreadable`."""
    logs = witness.logs(vkeys)
    store = witness_store.Store(state)
    try:
        yield Witness(name=name, signer=signer, logs=logs, store=store, now=clock.SystemClock())
    finally:
        store.close()


@web.middleware
async def _hide_faults(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
    """A refusal of the framework is short; a fault of ours is logged here and told to nobody."""
    try:
        return await handler(request)  # type: ignore[no-any-return, misc]
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _text(error.status, f"{error.reason}\n", headers=headers)
    except (sqlite3.Error, OSError) as error:
        telemetry.log.critical("state_failed", reason=f"{type(error).__name__}: {error}")
        return _text(500, "the state can't be written; nothing was cosigned\n")
    except Exception:
        telemetry.log.exception("fault")
        return _text(500, "a fault; nothing was cosigned\n")


def _text(status: int, body: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=body.encode(), headers={"Content-Type": witness.TEXT_TYPE, **(headers or {})}
    )
