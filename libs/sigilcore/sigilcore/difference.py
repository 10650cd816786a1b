"""The readable difference of two payloads: which paths change, from what to what.

Invariants:

1. Two plain JSON values are equal exactly when their difference is empty; nothing that changes is left out.
2. Order is the document's: keys by code point, list items by index, so the same two values always read the same.
3. A value that is absent on one side is told as null there, and an object or list that appears or goes is told leaf by leaf.
4. Numbers are told apart from booleans: `true` is not `1`.
5. Of several changes in one record each is told against what those before it leave.

A mentor signs what changes, so the difference is computed on the mentor's own side, from verified records; the server shows the
same lines by the same function, but nobody has to take its word.

Example: from `{"k": 2}` to `{"k": 3, "kinds": {"genesis": 4}}` there are two lines, `$.k` 2 → 3 and `$.kinds.genesis` null → 4.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from sigilcore import governance
from sigilcore.records import system

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Line(NamedTuple):
    """One change: a JSON path, and the plain values before and after."""

    path: str
    old: Any
    new: Any


class _Absent:
    """Stands where a side has no value; a null that is there is something else."""


_ABSENT: Final = _Absent()


def between(old: Any, new: Any) -> tuple[Line, ...]:
    """The lines that lead from `old` to `new`; both may be plain JSON values or Structs, None is nothing at all."""
    return tuple(_walk("$", _plain(old), _plain(new)))


def of_change(state: governance.Governance, payload: msgspec.Struct) -> tuple[Line, ...]:
    """What a system record's payload would change of what is in force in this state of the log."""
    if not isinstance(payload, system.Changes):
        return between(in_force(state, payload), payload)
    lines: list[Line] = []
    for index, (before, change) in enumerate(state.along(payload)):
        lines.append(Line(f"$.changes[{index}].kind", None, change.kind))
        told = between(in_force(before, change.payload), change.payload)
        lines += (line._replace(path=f"$.changes[{index}].payload{line.path[1:]}") for line in told)
    return (*lines, Line("$.expires_at", None, payload.expires_at))


def in_force(state: governance.Governance, payload: msgspec.Struct) -> Any:
    """The present value in the shape of the payload; None where there is none."""
    match payload:
        case system.TrustedWitness():
            entry = state.active_witnesses().get(payload.witness_id)
            return None if entry is None else _witness(entry)
        case system.QuorumPolicy():
            return state.quorum
        case system.ModelConfig():
            return {"model": state.model}
        case system.AccessPolicyChange():
            return {"policy": state.policy}
        case system.ServiceKey():
            # Whoever folds system records only must find the same difference, so a revocation doesn't show here.
            key = state.enrolled_key(payload.service)
            return None if key is None else {"service": payload.service, "key": key.hex()}
        case system.LogKey():
            return {"vkey": state.log_key}
        case system.RootKey():
            return state.root
        case _:
            return None


def _witness(entry: governance.WitnessEntry) -> dict[str, Any]:
    shown: dict[str, Any] = {"witness_id": entry.witness_id, "name": entry.name, "key": entry.key.hex()}
    return shown | ({"persona": True} if entry.persona else {})


def _plain(value: Any) -> Any:
    return _ABSENT if value is None else msgspec.json.decode(msgspec.json.encode(value))


def _walk(path: str, old: Any, new: Any) -> Iterator[Line]:
    members, items = _both(old, new, dict), _both(old, new, list)
    if members is not None:
        before, after = members
        for key in sorted({*before, *after}):
            yield from _walk(_member(path, key), before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif items is not None:
        before, after = items
        for index in range(max(len(before), len(after))):
            yield from _walk(f"{path}[{index}]", _item(before, index), _item(after, index))
    elif not _same(old, new):
        yield Line(path, _shown(old), _shown(new))


def _both(old: Any, new: Any, container: type[Any]) -> tuple[Any, Any] | None:
    """Both sides as containers of this type, an absent one as an empty one; None where the lines end.

    An empty container against nothing is a line of its own, since walking it would tell nothing."""
    if isinstance(old, container) and isinstance(new, container):
        return old, new
    if isinstance(old, container) and old and new is _ABSENT:
        return old, container()
    if isinstance(new, container) and new and old is _ABSENT:
        return container(), new
    return None


def _item(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else _ABSENT


def _member(path: str, key: str) -> str:
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"


def _same(old: Any, new: Any) -> bool:
    """Equal as JSON: where both are plain leaves or containers of unlike shape."""
    if isinstance(old, bool) is not isinstance(new, bool):
        return False
    return old is new or (type(old) in _LEAVES and type(new) in _LEAVES and old == new)


_LEAVES: Final = (bool, int, float, str, type(None))


def _shown(value: Any) -> Any:
    return None if value is _ABSENT else value
