"""What the license service decides of keys: which may be revoked, and what is told of them. All of it comes from the log."""

from typing import Literal

from sigilcore import admission, decision, signing
from sigilcore.contracts import keys as wire
from sigilcore.contracts.common import Placed, cursor_number
from sigilcore.governance import Governance, KeyEntry
from sigilcore.records import audit


def revocation(state: Governance, request: wire.RevokeKey, asked: decision.Request) -> audit.KeyRevoked:
    """What the log keeps of a revocation, or the first reason against it. A repetition under the caller's id is the writer's to know."""
    entry = state.key(request.key_id)
    if request.id is None or entry is None or entry.active:
        entry = admission.revocable(state, request.key_id)
    role: Literal["service", "instance"] = "service" if entry.role == "service" else "instance"
    return audit.KeyRevoked(key_id=request.key_id, role=role, reason=request.reason, request=asked)


def ended(state: Governance, key_id: str, placed: Placed) -> wire.KeyEnded:
    """The answer: where the end stands, and which instances ended there with their service."""
    entry = state.keys[key_id]
    role: Literal["service", "instance"] = "service" if entry.role == "service" else "instance"
    instances = tuple(
        other
        for other, one in state.keys.items()
        if other != key_id and one.role == "instance" and one.until_seq == placed.seq
    )
    return wire.KeyEnded(
        key_id=key_id,
        role=role,
        name=entry.name,
        instances=instances,
        id=placed.id,
        hash=placed.hash,
        seq=placed.seq,
    )


def page(state: Governance, request: wire.ListKeys) -> wire.KeyPage:
    """Keys in the order in which the log came to know them: a key keeps its place for ever, so a cursor is a place."""
    first = 0 if request.cursor is None else cursor_number(request.cursor)
    items: list[wire.KeyView] = []
    for place, entry in enumerate(state.keys.values()):
        if place < first or request.active not in {None, entry.active}:
            continue
        if len(items) == request.limit:
            return wire.KeyPage(items=tuple(items), cursor=str(place))
        items.append(view(entry))
    return wire.KeyPage(items=tuple(items), cursor=None)


def view(entry: KeyEntry) -> wire.KeyView:
    """A key as the log knows it."""
    return wire.KeyView(
        key_id=signing.key_id(entry.public),
        role=entry.role,
        name=entry.name,
        instance=entry.instance,
        public_key=entry.public.hex(),
        since_seq=entry.since_seq,
        until_seq=entry.until_seq,
    )
