"""The writer's process: committer, publisher and high-water file around one store.

Two of them may run. The second stands by in `build`, before anything is served, so no call reaches it: it waits for the lock, follows a
writer that let go or is gone at once, and ends one that shows no sign of life (`canon.take_over_s`). The first, asked to stop, answers
what it took and lets go of the lock last; who asks in between finds nobody, and asks again.

It has two connections: in the house's account it hears its calls and asks, in the stream's it is the keeper, alone.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec

from services.canon_writer import (
    committer,
    cosigning,
    high_water,
    publisher,
    remembered,
    restore,
    room,
    rules,
    scrubbing,
    store,
    vault,
)
from services.canon_writer.laws import Broken, Fenced, Lost, Moved, StoreError
from sigilcore import note, signing
from sigilcore.contracts import canon, house
from sigilcore.refusals import Code, Refused
from sigilrun import keys, private_files, service, settings, stream, telemetry
from sigilrun.bus import Bus

RETRY_S = 0.5
_UNKNOWN = {"outcome": "unknown"}
FLUSH_S = 3.0


class Writer:
    """One tenant's pen."""

    def __init__(
        self,
        committing: committer.Committer,
        publishing: publisher.Publisher,
        keeping: store.PostgresStore,
        high: high_water.HighWater | None,
        memory: remembered.Remembered,
        *,
        restoring: Callable[[], restore.Restoring],
        failing: asyncio.Event,
    ) -> None:
        self.committer = committing
        self.publisher = publishing
        self.store = keeping
        self.high_water = high
        self.remembered = memory
        self._restoring = restoring
        self._failing = failing
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """Become the writer; waits for the database, and as a stand-by for the writer before."""
        while True:
            try:
                await self.committer.load()
            except (Lost, StoreError) as error:
                telemetry.log.warning("store_down", reason=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def restore(self) -> canon.Restored:
        """Bring back what the stream still has; then end, so that the next start looks at everything anew."""
        if self.committer.read_only is None:
            return canon.Restored(restored=0, size=self.committer.head.size, left=0)
        if self._turn.locked():
            raise Refused(Code.BUSY, "a restore is under way")
        async with self._turn:
            with contextlib.suppress(Broken):
                # A new connection, a new epoch. What it finds broken is what we are here for.
                await self.store.open()
            done = await self._restoring().run()
        telemetry.log.warning("restored", restored=done.restored, size=done.size, left=done.left)
        if not done.left:
            self._failing.set()
        return done

    async def watch(self, end: Callable[[], None]) -> None:
        """End the process once it may not write any more."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.store.over, self.committer.fenced)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.committer.stop_for_good("another writer has taken over")
        end()

    async def finish(self) -> None:
        """Publish what was committed, if the bus lets us in time; the rest is published at the next start."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(FLUSH_S):
                await self.publisher.catch_up()
        if self.high_water is not None:
            self.high_water.write()
        await self.store.close()


def end_process() -> None:
    """Ask this process to stop in order; its supervisor starts it anew, as a stand-by."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Writer]:
    """A writer that has loaded the log; serving begins after this."""
    seed = parts.settings.bus.stream_nkey_seed_file
    if seed is None:
        raise settings.SettingsError(["[bus] stream_nkey_seed_file: missing; the writer keeps the stream by it"])
    keeping = msgspec.structs.replace(parts.settings.bus, nkey_seed_file=seed)
    keeper = await Bus.connect(keeping, house.KEEPER, metrics=parts.metrics)
    try:
        async with _writing(parts, keeper) as writer:
            yield writer
    finally:
        await keeper.close()


def _composed(
    parts: service.Parts,
    options: settings.Canon,
    keeper: Bus,
    keeping: store.PostgresStore,
    scrubber: scrubbing.Scrubber,
) -> Writer:
    """The writer's parts, tied together; nothing is read or done yet."""
    assert parts.keystore is not None
    deployed = parts.deployment
    high = None if options.high_water_file is None else high_water.HighWater(options.high_water_file)

    def committed(commit: committer.Committed) -> None:
        publishing.committed(commit)
        scrubber.committed(commit)
        if high is not None:
            high.reached(commit.size)

    log_keys = keys.RoleSigner(parts.keystore, house.LOG_KEY, lambda: None)
    committing = committer.Committer(
        keeping,
        signer=log_keys,
        successor=lambda public: _held(log_keys, public),
        deployment=_deployment(deployed, options),
        clock=parts.clock,
        bounds=committer.Bounds(batch_records=options.max_rows, waiting_records=options.max_queue),
        floors=[] if high is None else [high.floor],
        on_commit=committed,
        on_read_only=lambda reason: setattr(parts.presence, "trouble", f"read-only: {reason}"),
        disk_low=_disk_low(options),
    )
    publishing = publisher.Publisher(
        keeper,
        keeping,
        tenant=deployed.tenant,
        origin=note.VerifierKey.parse(deployed.log).name,
        batch=options.refill_batch,
        alarm=committing.turn_read_only,
        halted=lambda: committing.read_only,
    )
    committing.never_below(publishing.floor)

    memory = remembered.Remembered(
        parts.bus,
        lambda: committing.state,
        held=log_keys.publics,
        reached=high.reached if high is not None else lambda _: None,
    )
    committing.never_below(memory.floor)

    def restoring() -> restore.Restoring:
        return restore.Restoring(
            keeping, restore.StreamSurvivors(keeper, deployed.tenant), _deployment(deployed, options)
        )

    return Writer(committing, publishing, keeping, high, memory, restoring=restoring, failing=parts.failing)


@contextlib.asynccontextmanager
async def _writing(parts: service.Parts, keeper: Bus) -> AsyncIterator[Writer]:
    options = parts.settings.canon
    assert options is not None
    assert parts.keystore is not None
    keeping = await _connect(options, parts.deployment.tenant, parts.keystore.aead_key(house.PAYLOAD_KEY))
    scrubber = scrubbing.Scrubber(options, parts.deployment.tenant)
    writer = _composed(parts, options, keeper, keeping, scrubber)
    high = writer.high_water
    try:
        await writer.load()
    except BaseException:
        # Told to stop while standing by.
        await keeping.close()
        raise
    # A writer that was paused still hears its calls; it must not take them from the one that followed it.
    parts.presence.queue = f"{parts.resident}.{keeping.epoch}"
    if high is not None:
        high.reached(writer.committer.head.size)
    runs: list[Coroutine[Any, Any, None]] = [
        writer.committer.run(),
        writer.publisher.run(),
        scrubber.run(),
        writer.watch(end_process),
        _outlive(keeper, parts.failing),
    ]
    if high is not None:
        runs.append(high.run())
    tasks = [asyncio.create_task(run) for run in runs]
    for task in tasks:
        task.add_done_callback(lambda done: _end_with(done, parts.failing))
    try:
        yield writer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await writer.finish()


def _end_with(done: asyncio.Task[None], failing: asyncio.Event) -> None:
    """A part that broke is told, and the process ends: a writer without it would go on as if nothing were missing."""
    if not done.cancelled() and (error := done.exception()) is not None:
        telemetry.log.critical("part_broke", exc_info=error)
        failing.set()


async def _outlive(keeper: Bus, failing: asyncio.Event) -> None:
    """Without its word with the stream a writer is none: let the process end when the server closed that for good."""
    await keeper.closed.wait()
    failing.set()


def _disk_low(options: settings.Canon) -> Callable[[], bool]:
    """Whether the database's disk is nearly full, where it is ours to watch."""
    if options.data_dir is None or options.reserve_mb == 0:
        return lambda: False
    return room.Room(options.data_dir, options.reserve_mb * 1024 * 1024).low


def _held(log_keys: keys.RoleSigner, public: bytes) -> signing.Signer | None:
    """The log's key with this public key, if the keystore holds it."""
    with contextlib.suppress(keys.KeyMissing):
        return log_keys.of(public)
    return None


async def _connect(options: settings.Canon, tenant: str, wrapping: vault.Wrapping) -> store.PostgresStore:
    while True:
        try:
            return await store.PostgresStore.connect(options, tenant, wrapping)
        except Lost as error:
            telemetry.log.warning("store_down", reason=str(error))
            await asyncio.sleep(RETRY_S)


def _deployment(deployed: settings.DeploymentFile, options: settings.Canon) -> rules.Deployment:
    return rules.Deployment(
        tenant=deployed.tenant,
        runtime_id=deployed.runtime_id,
        services=deployed.services,
        log=deployed.log,
        bootstrap_token_hash=_token_hash(options),
    )


def _token_hash(options: settings.Canon) -> str:
    """The hash of the one-time token; without one nobody can bootstrap."""
    if options.bootstrap_token_hash_file is None:
        return ""
    data = private_files.read(options.bootstrap_token_hash_file, 128) or b""
    return data.decode("ascii", "replace").strip()


async def append(self: Writer, request: canon.Append, _: service.Call) -> canon.Appended:
    """`canon/append`."""
    return await self.committer.append(request)


async def bootstrap(self: Writer, request: canon.BootstrapAppend, _: service.Call) -> canon.Appended:
    """`canon/bootstrap`."""
    return await self.committer.bootstrap(request)


async def refill(self: Writer, _: Any, __: service.Call) -> canon.Refill:
    """`canon/refill`."""
    return await self.publisher.refill()


async def bring_back(self: Writer, _: Any, __: service.Call) -> canon.Restored:
    """`canon/restore`."""
    try:
        return await self.restore()
    except stream.StreamMissing as missing:
        raise Refused(Code.READ_ONLY, "there is no stream to bring anything back from") from missing
    except Moved as moved:
        raise Refused(Code.READ_ONLY, f"something else stands there: {moved}") from moved
    except (Lost, Fenced) as lost:
        telemetry.log.warning("restore_broke_off", reason=str(lost))
        raise Refused(Code.UNAVAILABLE, "the restore broke off; ask again", detail=_UNKNOWN) from lost


async def cosign(self: Writer, request: canon.Cosign, _: service.Call) -> canon.Cosigned:
    """`canon/cosign`."""
    try:
        return await cosigning.keep(self.store, self.committer.state, request)
    except StoreError as error:
        telemetry.log.warning("store_down", reason=str(error))
        raise Refused(
            Code.UNAVAILABLE, "the canon's database can't be reached", detail={"outcome": "unknown"}
        ) from error


async def beyond(self: Writer, request: canon.Beyond, _: service.Call) -> canon.Judged:
    """`canon/beyond`."""
    try:
        reason = self.remembered.judge(self.committer.head, request.note.encode())
    except note.NoteError as error:
        raise Refused(Code.SIGNATURE_INVALID, str(error), field="$.note") from error
    if reason is not None:
        self.committer.turn_read_only(reason)
    return canon.Judged(size=self.committer.head.size, read_only=self.committer.read_only)


HANDLERS: service.Handlers[Writer] = {
    canon.APPEND: append,
    canon.BOOTSTRAP: bootstrap,
    canon.REFILL: refill,
    canon.RESTORE: bring_back,
    canon.COSIGN: cosign,
    canon.BEYOND: beyond,
}
