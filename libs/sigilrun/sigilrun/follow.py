"""The state of the log, kept by following it: every governing record, verified again, in order.

Invariants:

- a record moves the state only after `record.check` and `admission.admit_governing`, the same code as the writer's: a forged event
  moves nothing;
- order is by seq: what is older than `position` is ignored, and what comes after a hole waits until the hole is read from the canon;
- `position` counts records: all governing records with seq below it are in the state;
- genesis is pinned by what the deployment file says (runtime id, tenant, keys, log), and by the hash of an earlier start if there was one.

The stream makes it fast, `canon/events` makes it whole: it is asked at the start, after each reconnection, after anything strange on the
stream, and every `repage_interval_s` besides. The bus can delay what is seen here, and cannot forge it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from sigilcore import admission, checkpoint, faults, note, record, records
from sigilcore.contracts import canon, house
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun import stream, telemetry
from sigilrun.bus import Bus
from sigilrun.settings import DeploymentFile

GOVERNING = tuple(kind.tag for kind in records.REGISTRY.values() if kind.governs)
PAGE = 500
# A call that waits for a position looks at the canon itself when the stream was this quiet.
IMPATIENT_S = 0.01
QUIET_S = 0.5
SEEN = 64  # checkpoints remembered
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 2.0

Pager = Callable[[canon.Events], Awaitable[canon.EventPage]]
Changed = Callable[[int, record.Checked], None]


class WrongCanon(Exception):  # noqa: N818 - what is found
    """This canon isn't the one that this service belongs to: refuse to run rather than to serve another Root."""


class Follower:
    """Keeps `state`. `start` it once; `wait_bootstrapped` tells of genesis."""

    def __init__(
        self,
        bus: Bus,
        deployment: DeploymentFile,
        *,
        pinned: str | None = None,
        repage_interval_s: float = 30,
    ) -> None:
        """`pinned`: the genesis hash of an earlier start. Nothing is read yet."""
        self.state = Governance()
        self.position = 0
        # Opened under this very state; calls of one commit share theirs.
        self._seen: dict[bytes, checkpoint.Checkpoint] = {}
        self.wrong: WrongCanon | None = None
        self.stopped = asyncio.Event()  # set when `wrong` ended it
        self._bus = bus
        self._deployment = deployment
        self._pinned = pinned
        self._repage_interval_s = repage_interval_s
        self._pager: Pager = self._ask
        self._callbacks: list[Changed] = []
        self._moved = asyncio.Event()
        self._bootstrapped = asyncio.Event()
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._forget: Callable[[], None] = lambda: None
        self._repage = asyncio.Event()
        self._delay_s = RETRY_FIRST_S

    # What services ask.

    def page_with(self, pager: Pager) -> None:
        """Read pages another way than over the bus: for readers of the canon themselves. Before `start`."""
        self._pager = pager

    def on_change(self, callback: Changed) -> None:
        """Call back after each governing record was applied; the callback must not raise or wait."""
        self._callbacks.append(callback)

    @property
    def founded(self) -> bool:
        """True if the canon has its genesis, seen now or at an earlier start."""
        return self.state.bootstrapped or self._pinned is not None

    async def wait_bootstrapped(self) -> None:
        """Return once genesis is in the state."""
        await self._bootstrapped.wait()

    async def wait_for(self, size: int, timeout_s: float = 2.0) -> None:
        """Return once all governing records with seq below `size` are in the state.

        Raises:
            Refused: NOT_YET.

        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < size:
                    moved = self._moved
                    with contextlib.suppress(TimeoutError):
                        # Not `asyncio.wait_for`, which can lose a cancellation, and with it the bound around this loop.
                        async with asyncio.timeout(IMPATIENT_S):
                            await moved.wait()
                    if not moved.is_set():
                        await self._page_all(size)
        except TimeoutError:
            raise Refused(
                Code.NOT_YET, f"seen {self.position} of {size} records", detail={"position": self.position}
            ) from None
        except Refused as refused:
            raise Refused(Code.NOT_YET, f"seen {self.position} of {size} records: {refused.message}") from refused

    async def reach(self, seq: int) -> None:
        """Return once the state has seen the record that a caller names by `seq`; one that isn't there yet isn't waited for.

        Raises:
            Refused: BEYOND_HEAD, NOT_YET.

        """
        if seq < self.position:
            return
        head = (await self._pager(canon.Events(first=0, limit=1))).head
        if seq >= head:
            raise Refused(Code.BEYOND_HEAD, f"the log has {head} records", field="$.wait_for", detail={"head": head})
        await self.wait_for(seq + 1)

    async def opened(self, data: bytes) -> checkpoint.Checkpoint:
        """The checkpoint in these bytes, signed by the key that the log had at its size.

        One that the key known here didn't sign may be signed by a successor that wasn't seen yet: then everything up to its size is seen
        first. Raises `note.NoteError` when the log didn't sign it, and `Refused`: NOT_YET.
        """
        known = self._seen.get(data)
        if known is None:
            known = self._seen[data] = await self._opened(data)
            if len(self._seen) > SEEN:
                del self._seen[next(iter(self._seen))]
        return known

    async def _opened(self, data: bytes) -> checkpoint.Checkpoint:
        try:
            return checkpoint.open_by_size(data, self._log_key_at)
        except note.SignatureError:
            size = checkpoint.parse_text(note.parse(data).text).size
            if self.position >= size:
                raise
            await self.wait_for(size)
            return checkpoint.open_by_size(data, self._log_key_at)

    def _log_key_at(self, size: int) -> note.VerifierKey:
        """Before genesis is seen, the key that the deployment was made with."""
        return self.state.log_key_at(size) if self.state.bootstrapped else note.VerifierKey.parse(self._deployment.log)

    # How it runs.

    async def start(self) -> None:
        """Follow from now on, in the background."""
        self._forget = self._bus.on_reconnect(self._repage.set)
        self._task = asyncio.create_task(self._run(), name="follower")

    async def stop(self) -> None:
        """Follow no more; the state stays."""
        self._forget()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._page_all()
                await self._listen()
            except WrongCanon as wrong:
                telemetry.log.critical("wrong_canon", reason=str(wrong))
                self.wrong = wrong
                self.stopped.set()
                return
            except (Refused, faults.Fault, stream.StreamMissing) as error:
                telemetry.log.debug("follower_waits", position=self.position, reason=str(error))
            except Exception:
                # Evidence that doesn't verify, or a fault of ours: loud, nothing moved, and read again from the canon.
                telemetry.log.exception("follower_stuck", position=self.position)
                self._bus.metrics.corrupt.labels("governance").inc()
            await asyncio.sleep(self._delay_s)
            self._delay_s = min(self._delay_s * 2, RETRY_MOST_S)

    async def _listen(self) -> None:
        """Apply what the stream brings until it is time to look at the canon again."""
        subjects = [house.event_subject(self._deployment.tenant, records.REGISTRY[tag].space, tag) for tag in GOVERNING]
        self._repage.clear()
        feed = self._bus.read_stream(self._deployment.tenant, self.position + 1, subjects=subjects)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._repage_interval_s
        try:
            opened = 0
            while not self._repage.is_set() and loop.time() < until:
                arrived = await feed.fetch(PAGE, QUIET_S if opened else 0)
                self._delay_s = RETRY_FIRST_S  # only now: a canon that answers while the stream is missing isn't asked without pause
                if feed.opened != opened:
                    # A new consumer: the canon is read once more after it exists, so that nothing falls between page and stream.
                    opened = feed.opened
                    await self._page_all()
                for message in arrived:
                    self._accept(msgspec.json.decode(message.data, type=record.PlacedRecord), message)
        finally:
            await feed.close()

    async def _page_all(self, wanted: int | None = None) -> None:
        """Read the canon from `position` to its head, one reader at a time; not if `wanted` was reached meanwhile."""
        async with self._reading:
            while wanted is None or self.position < wanted:
                page = await self._pager(canon.Events(first=self.position, limit=PAGE, kinds=GOVERNING))
                for placed in page.items:
                    self._apply(placed)
                self._advance(max(self.position, page.next))
                if page.next >= page.head:
                    return

    async def _ask(self, events: canon.Events) -> canon.EventPage:
        return await self._bus.call(canon.EVENTS, events)

    def _accept(self, placed: record.PlacedRecord, message: stream.Message) -> None:
        if placed.seq + 1 != message.stream_seq:
            raise faults.Corrupt(f"seq {placed.seq} stands at {message.stream_seq} of the stream")
        self._apply(placed)
        self._advance(max(self.position, placed.seq + 1))

    def _apply(self, placed: record.PlacedRecord) -> None:
        """One governing record, if it is new: checked, admitted, folded."""
        if placed.seq < self.position or (placed.seq > 0 and not self.state.bootstrapped):
            return
        try:
            checked = record.check(placed.signed())
            admission.admit_governing(self.state, checked)
        except Refused as refused:
            raise faults.Corrupt(f"seq {placed.seq} is not admissible: {refused}") from refused
        if not checked.kind.governs:
            return
        if not self.state.bootstrapped:
            self._check_genesis(checked)
        self.state.apply(placed.seq, checked)
        self._seen.clear()
        self._advance(placed.seq + 1)
        for callback in self._callbacks:
            callback(placed.seq, checked)

    def _check_genesis(self, checked: record.Checked) -> None:
        """Record 0 must be the one this deployment was made for."""
        found, wanted = checked.payload, self._deployment
        if self._pinned is not None and checked.header.hash != self._pinned:
            raise WrongCanon(f"genesis is {checked.header.hash}, and {self._pinned} was pinned at an earlier start")
        if (found.runtime_id, found.tenant, found.log) != (wanted.runtime_id, wanted.tenant, wanted.log):
            raise WrongCanon("genesis names another deployment, tenant or log than deployment.json")
        if found.services != wanted.services:
            raise WrongCanon("genesis names other service keys than deployment.json")

    def _advance(self, position: int) -> None:
        if position == self.position:
            return
        self.position = position
        self._bus.metrics.position.labels("governance").set(position)
        self._moved.set()
        self._moved = asyncio.Event()
        if self.state.bootstrapped:
            self._bootstrapped.set()
