"""Cosignatures of our checkpoints: what the writer keeps, and what readers show of them.

Invariants:

- a line is kept only if a cosigner of the policy in force signed exactly the checkpoint that stands at that size;
- it is verified again when it is read, so whoever can write to the table can hide a cosignature and not make one;
- what counts is judged by the policy in force now: `c` of its cosigners, distinct keys.
"""

from collections.abc import Callable, Sequence

import msgspec

from services.canon_writer.laws import Cosignature, Shelf, Store
from sigilcore import checkpoint, note, witnessed
from sigilcore.contracts import canon
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused

CANDIDATES = 4  # of the newest marks judged again; the first does, unless the policy has just changed


class Witnessed(msgspec.Struct, frozen=True, kw_only=True):
    """The newest checkpoint with enough cosignatures, and with them; size 0 and no note if there is none."""

    size: int = 0
    note: bytes = b""


NOTHING = Witnessed()


async def keep(store: Store, state: Governance, request: canon.Cosign) -> canon.Cosigned:
    """`canon/cosign`."""
    keys = {(key.name, key.key_id): key for key, _ in witnessed.cosigners(state.quorum)}
    notes = await store.notes(request.size, request.size)
    if request.size not in notes:
        raise Refused(Code.NOT_FOUND, "the log has no checkpoint of this size", field="$.size")
    text = note.parse(notes[request.size]).text
    try:
        lines = note.parse_signatures(request.lines.encode())
    except note.NoteError as error:
        raise Refused(Code.BAD_INPUT, str(error), field="$.lines") from error
    good = []
    for line in lines:
        key = keys.get((line.name, line.key_id))
        if key is None:
            raise Refused(Code.KEY_NOT_ALLOWED, f"{line.name} is no cosigner of the policy in force", field="$.lines")
        try:
            checkpoint.verify_cosignature(text, line, key)
        except note.NoteError as error:
            raise Refused(Code.SIGNATURE_INVALID, str(error), field="$.lines") from error
        good.append(Cosignature(key=key.public_key, line=line.line().encode()))
    # A crash before this: the notary asks again. After it, and before the mark: it asks again too, and the same line again changes nothing.
    await store.cosign(request.size, good)
    kept = {one.key for one in await store.cosignatures(request.size)}
    have = len(kept & {key.public_key for key in keys.values()})
    need = witnessed.needed(state.quorum)
    if 0 < need <= have:
        await store.mark_witnessed(request.size)
    return canon.Cosigned(size=request.size, have=have, need=need)


class Shown:
    """What readers show. The last answer is remembered with the policy and the lines that it was judged by."""

    def __init__(self, shelf: Shelf, state: Callable[[], Governance], log_key: note.VerifierKey) -> None:
        self._shelf = shelf
        self._state = state
        self._log_key = log_key
        self._judged: tuple[int, int, Sequence[Cosignature]] = (-1, 0, ())
        self._last = NOTHING

    async def newest(self) -> Witnessed:
        """The newest witnessed checkpoint; nothing if the policy asks for no cosignatures."""
        state = self._state()
        if witnessed.needed(state.quorum) == 0:
            return NOTHING
        for size in await self._shelf.witnessed(CANDIDATES):
            lines = await self._shelf.cosignatures(size)
            judged = (state.quorum_seq, size, lines)
            if judged == self._judged:
                return self._last
            data = await self._cosigned(state, size, lines)
            if data is not None:
                self._judged, self._last = judged, Witnessed(size=size, note=data)
                return self._last
        return NOTHING

    async def _cosigned(self, state: Governance, size: int, lines: Sequence[Cosignature]) -> bytes | None:
        """The note with its lines, if they are enough."""
        stored = (await self._shelf.notes(size, size)).get(size, b"")
        keys = [key for key, _ in witnessed.cosigners(state.quorum)]
        try:
            data = _with_lines(stored, keys, lines)
            opened = witnessed.opened(data, state.quorum, self._log_key)
        except note.NoteError:
            return None
        return data if opened is not None and opened.size == size else None

    def standing(self, found: Witnessed, seq: int) -> witnessed.Standing:
        """What to say of a record."""
        return witnessed.standing(self._state().quorum, found.size, seq)


def _with_lines(stored: bytes, keys: Sequence[note.VerifierKey], lines: Sequence[Cosignature]) -> bytes:
    """The note with those lines that verify; a bad one would spoil it."""
    by_key = {one.key: one.line for one in lines}
    for key in keys:
        line = by_key.get(key.public_key)
        if line is None:
            continue
        try:
            checkpoint.verify_cosignature(note.parse(stored).text, line.decode(), key)
        except (note.NoteError, UnicodeDecodeError):
            continue
        stored += line
    return stored
