"""The life of a process, and the seam that every call passes.

`run` composes, in this order: settings → telemetry → keystore → bus → follower → author → the service itself → its subjects → genesis →
introduction → ready, until SIGTERM; then backwards. Nothing is global; what a service needs it gets in `Parts`.

Invariants:

- before genesis every command but those of `BEFORE_GENESIS` answers NOT_BOOTSTRAPPED;
- a command with admission PERMIT reaches its handler only with a permit for this call, its very bytes and now, and once: one that an
  earlier process of this service could have taken is refused;
- a body that doesn't fit its Struct is refused with the JSON path, before the handler;
- the genesis hash is pinned at the first start; another one later ends the process, loudly;
- stopping takes nothing new, ends what was taken, says so in the log (closing beat), and exits 0.

A service writes::

    @contextlib.asynccontextmanager
    async def build(parts: service.Parts) -> AsyncIterator[License]:
        yield License(parts)

    if __name__ == "__main__":
        service.run("license", build, HANDLERS)

    async def create(self: License, request: Create, call: service.Call) -> Created: ...
    HANDLERS = {license.CREATE: create, ...}
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import prometheus_client
import uvloop

from sigilcore import canonical, clock, permit, signing
from sigilcore.contracts import house
from sigilcore.contracts.command import Admission, Command
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun import answer, keys, private_files, settings, telemetry
from sigilrun.author import Author
from sigilrun.bus import Bus
from sigilrun.follow import Follower
from sigilrun.replay import OnceOnly, Use
from sigilrun.settings_sections import DeploymentFile

# What is answered before its service is ready: what founds the canon, what readiness itself is made of, and what the writer asks before
# it writes at all.
BEFORE_GENESIS = frozenset({"license/bootstrap", "canon/bootstrap", "log/checkpoint", "canon/events", "log/remembered"})
# A request's body; a call's records with their envelope are the largest.
MAX_BODY_BYTES = 8 * 1024 * 1024
REINTRODUCE_S = 0.5
# Values without cycles come and go by the thousand: Python's own threshold of 700 looks for cycles among them at each call.
GARBAGE = (20_000, 20, 50)
MOST_PERMITS = 200_000  # held for ten seconds each: over 20 000 calls a second; full means BUSY

S = TypeVar("S")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a service is built from. `follower` is None unless the resident follows, `author` unless it signs audit records."""

    resident: str
    settings: settings.Settings
    deployment: DeploymentFile
    bus: Bus
    clock: clock.Clock
    metrics: telemetry.Metrics
    state_dir: Path
    follower: Follower | None
    author: Author | None
    keystore: keys.Keystore | None
    signer: signing.Signer | None  # the service's own key
    # Set it, after logging why, when going on makes no sense: the process ends with 1 and its supervisor starts it anew.
    failing: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    # The permits of the calls whose handlers run now: on whose behalf the service may ask.
    answering: set[str] = msgspec.field(default_factory=set)
    # How the service shows itself on the bus: what keeps it from its work, and whether it shares its calls.
    presence: answer.Presence = msgspec.field(default_factory=answer.Presence)

    @property
    def following(self) -> Follower:
        """The follower of a resident that has one."""
        assert self.follower is not None
        return self.follower

    @property
    def authoring(self) -> Author:
        """The author of a resident that has one."""
        assert self.author is not None
        return self.author

    @property
    def own_signer(self) -> signing.Signer:
        """The service key of a resident that has one."""
        assert self.signer is not None
        return self.signer


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler knows of one call besides its request."""

    command: Command[Any, Any]
    scope: tuple[str, ...] = ()
    body: bytes
    trace_id: str
    deadline_ms: int | None
    permitted: permit.Bound | None

    @property
    def bound(self) -> permit.Bound:
        """The checked permit; only for commands that need one."""
        assert self.permitted is not None
        return self.permitted


Build = Callable[[Parts], AbstractAsyncContextManager[S]]
Handler = Callable[[S, Any, Call], Awaitable[msgspec.Struct]]
Handlers = Mapping[Command[Any, Any], Handler[S]]


class Running:
    """One resident in this process: what `run` runs and tests start and stop."""

    def __init__(self, parts: Parts) -> None:
        """Use `running`."""
        self.parts = parts
        self.service: Any = None
        self.answering: answer.Answering | None = None
        self.ready = asyncio.Event()
        self.failed: BaseException | None = None
        self.ended = asyncio.Event()  # set when it can't go on: wrong canon, bus closed, instance replaced
        self._began_ms = parts.clock.now_ms()
        self._permits = OnceOnly(window_ms=permit.START_WINDOW_MS, limit=MOST_PERMITS, started_ms=self._began_ms)

    async def seam(self, incoming: answer.Incoming, handler: answer.Handler) -> msgspec.Struct:
        """Admission and parsing, down the page; then the handler."""
        command = incoming.command
        if len(incoming.body) > MAX_BODY_BYTES:
            raise Refused(Code.BODY_TOO_LARGE, f"{len(incoming.body)} bytes, at most {MAX_BODY_BYTES}")
        if not self.ready.is_set() and command.name not in BEFORE_GENESIS:
            self._refuse_unready()
        bound = self._admit(incoming) if command.admission is Admission.PERMIT else None
        read = parse_records if command.admission is Admission.AUTHOR else parse
        request = read(incoming.body, command.request)
        call = Call(
            command=command,
            scope=incoming.scope,
            body=incoming.body,
            trace_id=incoming.trace_id,
            deadline_ms=incoming.deadline_ms,
            permitted=bound,
        )
        if bound is None:
            return await handler(self.service, request, call)
        self.parts.answering.add(bound.permit.permit_id)
        try:
            return await handler(self.service, request, call)
        finally:
            self.parts.answering.discard(bound.permit.permit_id)

    def _refuse_unready(self) -> None:
        follower = self.parts.follower
        if follower is None or follower.founded:
            raise Refused(Code.UNAVAILABLE, f"{self.parts.resident} is starting")
        raise Refused(Code.NOT_BOOTSTRAPPED, "the canon has no genesis yet")

    def _admit(self, incoming: answer.Incoming) -> permit.Bound:
        parts = self.parts
        gatekeeper_key = named_key(parts.following.state, "gatekeeper")
        now_ms = parts.clock.now_ms()
        bound = permit.check(
            incoming.permit,
            incoming.body,
            gatekeeper_key=gatekeeper_key,
            runtime_id=parts.deployment.runtime_id,
            tenant=parts.deployment.tenant,
            service=incoming.command.service,
            command=incoming.command.name,
            now_ms=now_ms,
        )
        if 0 <= bound.permit.not_after_ms - self._began_ms <= permit.START_WINDOW_MS:
            # It could have begun a call before this process could see it. Who asks meets what it would have met a moment ago.
            raise Refused(
                Code.UNAVAILABLE,
                f"{parts.resident} began after this permit was given; ask for another",
                detail={"outcome": "none"},
            )
        use = self._permits.use(bound.permit.permit_id, bound.permit.not_after_ms - permit.START_WINDOW_MS, now_ms)
        if use is Use.FULL:
            raise Refused(Code.BUSY, f"{parts.resident} can't remember another permit")
        if use is not Use.FRESH:
            raise Refused(Code.PERMIT_REPLAYED, "this permit was used before, or is of a time that was forgotten here")
        telemetry.bind_caller(parts.deployment.runtime_id, bound.permit.owner_id)
        return bound


def parse(body: bytes, kind: type[msgspec.Struct]) -> Any:
    """A request's Struct from its very bytes, which must be I-JSON; raises BAD_INPUT with the JSON path."""
    try:
        plain = canonical.parse(body, max_bytes=MAX_BODY_BYTES)
        if canonical.has_exponents(body):
            return canonical.typed(plain, kind)
    except canonical.NotCanonical as error:
        raise Refused(Code.BAD_INPUT, error.reason, field=error.path or "$") from error
    # From the bytes again: a signed record inside (`canon/user/write`) must keep its own.
    return parse_records(body, kind)


def parse_records(body: bytes, kind: type[msgspec.Struct]) -> Any:
    """A request that carries signed records: their very bytes are kept, and checked by who admits them; the envelope around is JSON."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason, _, path = str(error).partition(" - at `")
        raise Refused(Code.BAD_INPUT, reason, field=path.removesuffix("`") or "$") from error


@contextlib.asynccontextmanager
async def running(
    resident: str,
    build: Build[S],
    handlers: Handlers[S],
    options: settings.Settings,
    *,
    now: clock.Clock | None = None,
) -> AsyncIterator[Running]:
    """One resident, serving; leaving the block stops it in order. `Running.ready` is set once it serves fully."""
    declared = house.RESIDENTS[resident]
    metrics = telemetry.Metrics()
    state_dir = _state_dir(options.service.state_dir)
    deployed, ticking = options.deployed, now or clock.SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        keystore = _keystore(options)
        if keystore is not None:
            stack.callback(keystore.close)
        bus = await Bus.connect(options.bus, resident, metrics=metrics)
        stack.push_async_callback(bus.close)
        follower = author = None
        if declared.follows:
            pinned = _pinned(state_dir)
            follower = Follower(bus, deployed, pinned=pinned, repage_interval_s=options.service.repage_interval_s)
        signer = _signer(resident, keystore, follower)
        if signer is not None and follower is not None:
            author = Author(bus, signer, follower, options, resident=resident, clock=ticking)
        parts = Parts(
            resident=resident,
            settings=options,
            deployment=deployed,
            bus=bus,
            clock=ticking,
            metrics=metrics,
            state_dir=state_dir,
            follower=follower,
            author=author,
            keystore=keystore,
            signer=signer,
        )
        one = Running(parts)
        # Backwards at the end: no new calls, the service's own end (which may have something left to record), the closing beat.
        if follower is not None:
            stack.push_async_callback(follower.stop)
        if author is not None:
            stack.push_async_callback(author.close)
        one.service = await stack.enter_async_context(build(parts))
        if follower is not None:
            await follower.start()
        one.answering = await bus.serve(resident, handlers, one.seam, parts.presence)
        stack.push_async_callback(one.answering.stop)
        starting = asyncio.create_task(_become_ready(one), name="become ready")
        stack.push_async_callback(_cancelled, starting)
        watching = asyncio.create_task(_watch(one), name="watch")
        stack.push_async_callback(_cancelled, watching)
        yield one


async def _become_ready(one: Running) -> None:
    """Genesis, its pin, the instance's introduction; retried until they are there."""
    parts = one.parts
    assert one.answering is not None
    if parts.follower is not None:
        one.answering.state = "waiting for genesis"
        await parts.follower.wait_bootstrapped()
        _pin(parts.state_dir, parts.follower.state.genesis_hash)
    if parts.author is not None:
        one.answering.state = "introducing its instance"
        while True:
            try:
                await parts.author.introduce()
                break
            except Exception as error:
                telemetry.log.warning("introduction_failed", reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(REINTRODUCE_S)
    one.answering.state = "serving"
    one.ready.set()
    telemetry.log.info("ready", resident=parts.resident, instance=parts.settings.service.instance)


async def _watch(one: Running) -> None:
    """End when going on makes no sense; the supervisor starts anew."""
    parts = one.parts
    waits: list[tuple[Awaitable[Any], str]] = [
        (parts.bus.closed.wait(), "the bus closed for good"),
        (parts.failing.wait(), "the service can't go on"),
    ]
    if parts.follower is not None:
        waits.append((parts.follower.stopped.wait(), "wrong canon"))
    if parts.author is not None:
        waits.append((parts.author.lost.wait(), "this instance may not speak any more"))
    tasks = [asyncio.ensure_future(wait) for wait, _ in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        reason = next(text for task, (_, text) in zip(tasks, waits, strict=True) if task.done())
        telemetry.log.critical("ending", resident=parts.resident, reason=reason)
        one.failed = (parts.follower and parts.follower.wrong) or RuntimeError(reason)
        one.ended.set()
    finally:
        for task in tasks:
            task.cancel()


def run(resident: str, build: Build[S], handlers: Handlers[S]) -> None:
    """Run this process until SIGTERM or SIGINT; exits 0 after an orderly stop, 1 when it could not go on, 2 on bad settings."""
    path = Path(os.environ.get("SIGIL_CONFIG", "config.toml"))
    try:
        options = settings.load(path, os.environ, resident=resident, needs=_needs(resident))
    except settings.SettingsError as error:
        for problem in error.problems:
            print(f"{resident}: {problem}", file=sys.stderr)  # noqa: T201 - there is no log before its settings
        sys.exit(2)
    telemetry.configure(level=options.telemetry.level, as_json=options.telemetry.json, resident=resident)
    gc.set_threshold(*GARBAGE)
    try:
        code = uvloop.run(_main(resident, build, handlers, options))
    except keys.KeystoreError as error:
        telemetry.log.critical("keystore_refused", reason=str(error))
        code = 2
    sys.exit(code)


def _needs(resident: str) -> list[str]:
    """The optional settings that it can't do without, by its declaration."""
    declared = house.RESIDENTS[resident]
    wants = {"keystore": declared.keystore, "canon": declared.database}
    return [name for name, wanted in wants.items() if wanted]


async def _main(resident: str, build: Build[S], handlers: Handlers[S], options: settings.Settings) -> int:
    """Live until a signal; one that comes while we still look for the bus ends that."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    starting = asyncio.create_task(_start(resident, build, handlers, options))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    asked = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await _cancelled(starting)
        return 0
    one, stack = starting.result()
    async with stack:
        telemetry.log.info("started", resident=resident, pid=os.getpid())
        ended = asyncio.create_task(one.ended.wait())
        await asyncio.wait((asked, ended), return_when=asyncio.FIRST_COMPLETED)
        await _cancelled(ended)
    telemetry.log.info("stopped", resident=resident)
    return 0 if one.failed is None else 1


async def _start(
    resident: str, build: Build[S], handlers: Handlers[S], options: settings.Settings
) -> tuple[Running, contextlib.AsyncExitStack]:
    """A running resident, and what stops it."""
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(resident, build, handlers, options))
        if options.telemetry.metrics_port:
            server, _ = prometheus_client.start_http_server(
                options.telemetry.metrics_port, options.telemetry.metrics_host, one.parts.metrics.registry
            )
            stack.callback(server.shutdown)
        return one, stack.pop_all()
    raise AssertionError("an exit stack swallows nothing")


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _keystore(options: settings.Settings) -> keys.Keystore | None:
    if options.keystore is None:
        return None
    passphrase = keys.passphrase_from(f"file:{options.keystore.passphrase_file}")
    return keys.Keystore.open(options.keystore.path, passphrase)


def _signer(resident: str, keystore: keys.Keystore | None, follower: Follower | None) -> signing.Signer | None:
    """The service's own key, whichever the log names at the time; None for who has none. After a revocation it signs nothing."""
    if keystore is None or follower is None or resident not in house.SERVICE_KEYS:
        return None

    def named() -> bytes | None:
        return named_key(follower.state, resident) if follower.state.bootstrapped else None

    return keys.RoleSigner(keystore, resident, named)


def named_key(state: Governance, resident: str) -> bytes:
    """The public key that the log names for a service now. Raises UNAVAILABLE while there is none."""
    public = state.service_key(resident)
    if public is None:
        raise Refused(Code.UNAVAILABLE, f"the key of {resident} was revoked; a service_key record gives it another")
    return public


def _state_dir(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    private_files.make_folder(path)
    return path


def _pinned(state_dir: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return (private_files.read(state_dir / "genesis", 128) or b"").decode("ascii", "replace").strip()
    return None


def _pin(state_dir: Path, genesis_hash: str) -> None:
    """Once; the follower has compared it with an earlier pin already."""
    with contextlib.suppress(FileExistsError):
        private_files.write_new(state_dir / "genesis", genesis_hash.encode() + b"\n")
