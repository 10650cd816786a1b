"""Keys over time, answered by the license service: which spoke when, and the end of one that can't be trusted any more.

Rotation isn't here: a `service_key` or `log_key` system record puts another key in a key's place, by the quorum.
"""

from typing import Annotated, Literal

import msgspec

from sigilcore.access import Loa
from sigilcore.contracts import license as licensing
from sigilcore.contracts.command import Action, Command, Http, Target
from sigilcore.contracts.common import Cursor, Id, Limit, Message, WaitFor
from sigilcore.record_types import Hex32, Hex64, PublicKey, RecordId
from sigilcore.refusals import Code

SERVICE = licensing.SERVICE


class RevokeKey(Message, frozen=True, kw_only=True):
    """Ends a service's or an instance's key at this position of the log; a service's with all its instances."""

    key_id: Hex32
    reason: Annotated[str, msgspec.Meta(max_length=512)] = ""
    id: Id | None = None


class KeyEnded(Message, frozen=True, kw_only=True):
    """Where the key's end stands; `instances` ended with it."""

    key_id: Hex32
    role: Literal["service", "instance"]
    name: str
    instances: tuple[Hex32, ...]
    id: RecordId
    hash: Hex64
    seq: int


class KeyView(Message, frozen=True, kw_only=True):
    """A key that the log ever knew, and the positions between which it speaks. `name` is a service, a witness, Root's owner, or the log."""

    key_id: Hex32
    role: Literal["root", "log", "service", "instance", "witness", "peer"]
    name: str
    instance: str | None
    public_key: PublicKey
    since_seq: int
    until_seq: int | None


class ListKeys(Message, frozen=True, kw_only=True):
    """Keys in the order in which the log came to know them; `active`: only those that speak now, or only those that ended."""

    active: bool | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class KeyPage(Message, frozen=True, kw_only=True):
    """A page of keys."""

    items: tuple[KeyView, ...]
    cursor: str | None


REVOKE = Command(
    name="keys/revoke",
    service=SERVICE,
    request=RevokeKey,
    reply=KeyEnded,
    summary="End a service's or an instance's key, from here on; it needs no quorum.",
    action=Action.DELETE,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("key_revoked",),
    scored=False,
    http=Http(method="POST", path="/api/keys/revoke"),
    refusals=(Code.KEY_UNKNOWN, Code.KEY_ENDED, Code.KEY_NOT_REVOCABLE, Code.ID_TAKEN),
)
LIST = Command(
    name="keys/list",
    service=SERVICE,
    request=ListKeys,
    reply=KeyPage,
    summary="Every key that the log ever knew, with its role and positions.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.MENTOR,
    http=Http(method="GET", path="/api/keys/list"),
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)

COMMANDS = (REVOKE, LIST)
