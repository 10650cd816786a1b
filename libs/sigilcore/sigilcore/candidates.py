"""Candidates: whom a call, or a proposal that it opened, would make a witness.

Decides: names, from bytes that nobody has checked yet. A call that proposes witnesses is scored on their standing instead of its caller's,
who would else lend them its own; so the gate asks here what a call's parameters propose (`in_call`), and who admits the proposal asks the
same of the record that it carries (`check`).

Invariants:

1. What is no record, or none that its service could take, proposes nobody; nothing here refuses a call.
2. A record that can be admitted proposes exactly those whom it enrols: a rotation's and a revocation's witness is one already.
3. Names come once each and in order, so two answers about one record are equal.

Example: `witness/add` with {"witness_id": "mia"} proposes ("mia",); `quorum/propose` of a new model proposes ().
"""

from typing import Any

import msgspec

from sigilcore import records
from sigilcore.contracts.command import Command
from sigilcore.record_types import Name
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused

_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Core(msgspec.Struct):
    kind: str


class _Header(msgspec.Struct):
    core: _Core


class _Parts(msgspec.Struct):
    """Of a record that a call carries, what says whom it enrols."""

    core: str
    payload: str


def in_call(command: Command[Any, Any], parameters: bytes) -> tuple[str, ...]:
    """Whom a call proposes: by the field that its command declares, which holds a name or the record that enrols some."""
    if command.candidate_field is None:
        return ()
    try:
        said = msgspec.json.decode(parameters)[command.candidate_field]
        if isinstance(said, str):
            return (msgspec.convert(said, Name),)
        parts = msgspec.convert(said, _Parts)
        return _enrolled(msgspec.json.decode(parts.core, type=_Core).kind, parts.payload)
    except (KeyError, *_UNREADABLE):
        return ()


def in_opening(opening: audit.ProposalOpened) -> tuple[str, ...]:
    """Whom a proposal's record enrols."""
    carried = opening.record
    try:
        return _enrolled(msgspec.json.decode(carried.header, type=_Header).core.kind, carried.payload)
    except _UNREADABLE:
        return ()


def check(opening: audit.ProposalOpened, scored: tuple[str, ...]) -> None:
    """Hold a proposal to those on whose standing its decision was `scored`. Raises `Refused`."""
    enrolled = in_opening(opening)
    if enrolled != scored:
        of, on = (", ".join(names) or "nobody" for names in (enrolled, scored))
        raise Refused(
            Code.DECISION_MISMATCH, f"it proposes {of} as witness, its decision {on}", field="$.payload.record"
        )


def _enrolled(kind: str, payload: str) -> tuple[str, ...]:
    entry = records.REGISTRY.get(kind)
    if entry is None or entry.space != "system":
        return ()
    changes = system.changes_in(msgspec.json.decode(payload, type=entry.payload))
    enrolments = [one.payload for one in changes if isinstance(one.payload, system.TrustedWitness)]
    return tuple(sorted({one.witness_id for one in enrolments if one.action == "add"}))
