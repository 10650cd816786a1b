"""What the log's cosigners remember of it. A database that was set back together with stream and high-water file shows here only.

Invariants:

- only a note convicts: a checkpoint of this log, beyond what the store holds, signed by the log's own key. Whoever brings it, a cosigner,
  the notary or somebody on the bus, could not have made it; a mere word about sizes stops nobody;
- a key that has ended convicts no more: believed is the one that the log names now, and those of the keystore that came after it, which a
  shorter log doesn't name yet;
- who doesn't answer holds nobody up for longer than a bounded time, and is heard later (`canon/beyond`).

The writer has no road outside. It asks the notary, once, when it has loaded the log and before it writes; see `docs/adr/0008`.
"""

import asyncio
from collections.abc import Callable, Iterable

from services.canon_writer.laws import Head
from sigilcore import checkpoint, faults, note, witnessed
from sigilcore.contracts import house, notary
from sigilcore.governance import Governance
from sigilcore.refusals import Refused
from sigilrun import telemetry
from sigilrun.bus import Bus

WAIT_S = 5.0  # for a notary that starts beside us; cosigners that don't answer it cost as much as its own bound
AGAIN_S = 0.2


class Remembered:
    """One tenant's log, as others remember it."""

    def __init__(
        self,
        bus: Bus,
        state: Callable[[], Governance],
        *,
        held: Callable[[], Iterable[bytes]] = tuple,
        reached: Callable[[int], None] = lambda _: None,
        wait_s: float | None = None,
    ) -> None:
        """`held` tells the log's public keys in the keystore; `reached` hears of a size that was proven, so that it stays known."""
        self._bus = bus
        self._state = state
        self._held = held
        self._reached = reached
        self._wait_s = WAIT_S if wait_s is None else wait_s
        self._asked = False

    async def floor(self, head: Head) -> str | None:
        """Why this head can't be the log's: a cosigner shows a larger one. Asked once; what is seen later comes by itself."""
        urls = [url for _, url in witnessed.cosigners(self._state().quorum) if url is not None]
        if self._asked or not urls:
            return None
        self._asked = True
        reason = None
        for shown in await self._ask(urls[: notary.MAX_COSIGNERS]):
            try:
                reason = reason or self.judge(head, shown.encode())
            except note.NoteError as error:
                telemetry.log.warning("cosigner_useless", reason=str(error))
        return reason

    def judge(self, head: Head, data: bytes) -> str | None:
        """Why this head can't be the log's, if the note is beyond it. Raises `note.NoteError` if it isn't a note by the log's key."""
        shown = self._opened(head, data)
        if shown.size <= head.size:
            return None
        self._reached(shown.size)
        return (
            f"the store holds {head.size} records; the log's own key signed {shown.size}, and a cosigner remembers it"
        )

    def _opened(self, head: Head, data: bytes) -> checkpoint.Checkpoint:
        """The checkpoint, by the key in force or one that came after it."""
        state = self._state()
        if not state.bootstrapped:
            raise note.SignatureError("the log has no key yet")
        origin = house.origin(state.runtime_id, state.tenant)
        now = state.log_key_at(head.size)
        past = {note.VerifierKey.parse(text).public_key for text in state.log_keys.values()}
        later = (note.VerifierKey.of(origin, note.ED25519, public) for public in self._held() if public not in past)
        for key in (now, *later):
            try:
                return checkpoint.open_signed(data, key)
            except note.SignatureError:
                continue
        raise note.SignatureError("the log's key didn't sign this")

    async def _ask(self, urls: Iterable[str]) -> tuple[str, ...]:
        """What the cosigners show, by the notary; nothing if it doesn't answer in time."""
        state = self._state()
        asked = notary.Remember(origin=house.origin(state.runtime_id, state.tenant), urls=tuple(urls))
        try:
            async with asyncio.timeout(self._wait_s):
                while True:
                    try:
                        answer = await self._bus.call(notary.REMEMBER, asked, timeout_s=self._wait_s)
                    except Refused:
                        await asyncio.sleep(AGAIN_S)  # not there yet
                    else:
                        break
        except (TimeoutError, faults.Fault) as error:
            telemetry.log.warning("cosigners_unasked", reason=f"{type(error).__name__}: {error}")
            return ()
        if answer.silent:
            telemetry.log.warning("cosigners_silent", cosigners=answer.silent)
        return answer.notes
