"""Knowledge: memory and user-space things, single and in batches."""

from typing import Annotated, Any, Literal

import msgspec

from sigilcore.access import Loa
from sigilcore.contracts.command import Action, Command, Http, Target
from sigilcore.contracts.common import Cursor, Id, Limit, Message, WaitFor
from sigilcore.record import SignedRecord
from sigilcore.record_types import Hex64, Name, RecordId
from sigilcore.refusals import Code, Refusal

SERVICE = "knowledge"
Slug = Annotated[
    str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\Z", description="the thing's short name")
]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
UserKind = Literal["user_value", "document"]


class MemoryWrite(Message, frozen=True, kw_only=True):
    """Remember a text under a key; a second write of the key supersedes the first."""

    key: Slug
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=32)] = ()
    id: Id | None = None


class Written(Message, frozen=True, kw_only=True):
    """Where it stands; `proof` is the range proof's hashes (base64) under `checkpoint`."""

    id: RecordId
    hash: Hex64
    seq: int
    key: str
    existing: bool
    checkpoint: str
    proof: tuple[str, ...]


class MemoryList(Message, frozen=True, kw_only=True):
    """One's own memory by key prefix, tag and time; `user_id` is for Root."""

    user_id: Name | None = None
    prefix: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    tag: Tag | None = None
    since: Annotated[str, msgspec.Meta(max_length=24)] | None = None
    until: Annotated[str, msgspec.Meta(max_length=24)] | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class MemoryView(Message, frozen=True, kw_only=True):
    """A memory with the record that holds it, so that it can be cited and checked."""

    key: str
    text: str
    tags: tuple[str, ...]
    owner: str
    id: RecordId
    hash: Hex64
    seq: int
    ts: str
    version: int


class MemoryPage(Message, frozen=True, kw_only=True):
    """A page of memories."""

    items: tuple[MemoryView, ...]
    cursor: str | None


class MemoryRead(Message, frozen=True, kw_only=True):
    """One memory, current or at an earlier version (from 1)."""

    key: Slug
    user_id: Name | None = None
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None
    wait_for: WaitFor | None = None


class Item(Message, frozen=True, kw_only=True):
    """One user-space thing: for `document` the value is {title, text, source, licence}; for `user_value` any JSON."""

    kind: UserKind = "user_value"
    key: Slug | None = None
    value: Any = None
    id: Id | None = None


class UserWrite(Message, frozen=True, kw_only=True):
    """One thing: kind, key and value (`payload` is another name for it), or a finished record of one's own signing."""

    kind: UserKind = "user_value"
    key: Slug | None = None
    value: Any = None
    payload: Any = None
    record: SignedRecord | None = None
    id: Id | None = None


class UserBatch(Message, frozen=True, kw_only=True):
    """Many things in one call; each stands or falls alone."""

    items: Annotated[tuple[Item, ...], msgspec.Meta(min_length=1, max_length=256)]


class BatchResult(Message, frozen=True, kw_only=True):
    """One item's fate."""

    key: str
    id: RecordId
    hash: str | None = None
    seq: int | None = None
    existing: bool = False
    refusal: Refusal | None = None


class BatchWritten(Message, frozen=True, kw_only=True):
    """Results in the call's order, and the checkpoint that covers them."""

    items: tuple[BatchResult, ...]
    checkpoint: str


class UserList(Message, frozen=True, kw_only=True):
    """One's own things, newest version of each; `user_id` is for Root."""

    kind: UserKind | None = None
    user_id: Name | None = None
    prefix: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class UserView(Message, frozen=True, kw_only=True):
    """A thing with the record that holds it."""

    kind: str
    key: str
    value: Any
    owner: str
    id: RecordId
    hash: Hex64
    seq: int
    ts: str
    version: int


class UserPage(Message, frozen=True, kw_only=True):
    """A page of things."""

    items: tuple[UserView, ...]
    cursor: str | None


class UserRead(Message, frozen=True, kw_only=True):
    """One record of one's own by id."""

    id: RecordId
    wait_for: WaitFor | None = None


class UserErase(Message, frozen=True, kw_only=True):
    """One thing of one's own, by kind and key, or by `record`, the id of any of its versions. `id` is the erasure's own."""

    kind: Literal["memory_block", "user_value", "document"] = "memory_block"
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    record: RecordId | None = None
    id: Id | None = None


class Erased(Message, frozen=True, kw_only=True):
    """Where the erasure stands, and how many versions it made unreadable."""

    id: RecordId
    hash: Hex64
    seq: int
    kind: str
    key: str
    versions: int
    existing: bool
    checkpoint: str
    proof: tuple[str, ...]


_READ = (Code.NOT_FOUND, Code.BEYOND_HEAD, Code.NOT_YET)
_WRITE = (
    Code.ID_TAKEN,
    Code.STALE_PREV,
    Code.BODY_TOO_LARGE,
    Code.RECORD_INVALID,
    Code.DECISION_USED,
    Code.DECISION_UNKNOWN,
    Code.DECISION_MISMATCH,
    Code.READ_ONLY,
)

MEMORY_WRITE = Command(
    name="memory/write",
    service=SERVICE,
    request=MemoryWrite,
    reply=Written,
    summary="Remember a text.",
    action=Action.WRITE,
    target=Target.MEMORY,
    rung=Loa.OPERATOR,
    writes=("memory_block",),
    http=Http(method="POST", path="/api/memory/write"),
    refusals=_WRITE,
    example={"key": "greeting", "text": "Say good morning."},
)
MEMORY_LIST = Command(
    name="memory/list",
    service=SERVICE,
    request=MemoryList,
    reply=MemoryPage,
    summary="One's own memory.",
    action=Action.READ,
    target=Target.MEMORY,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/memory/list"),
    refusals=_READ,
)
MEMORY_READ = Command(
    name="memory/read",
    service=SERVICE,
    request=MemoryRead,
    reply=MemoryView,
    summary="One memory, now or as it was.",
    action=Action.READ,
    target=Target.MEMORY,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/memory/read/{key}"),
    refusals=_READ,
)
USER_WRITE = Command(
    name="canon/user/write",
    service=SERVICE,
    request=UserWrite,
    reply=Written,
    summary="Write one user-space thing.",
    action=Action.WRITE,
    target=Target.MEMORY,
    rung=Loa.OPERATOR,
    writes=("user_value", "document", "memory_block"),
    http=Http(method="POST", path="/api/canon/user/write"),
    refusals=(
        *_WRITE,
        Code.SIGNATURE_INVALID,
        Code.KEY_NOT_ALLOWED,
        Code.KIND_NOT_ALLOWED,
        Code.KIND_UNKNOWN,
    ),
    example={"key": "colour", "value": "teal"},
)
USER_BATCH = Command(
    name="canon/user/batch",
    service=SERVICE,
    request=UserBatch,
    reply=BatchWritten,
    summary="Write many user-space things in one call.",
    action=Action.WRITE,
    target=Target.MEMORY,
    rung=Loa.OPERATOR,
    writes=("user_value", "document"),
    longest_run_s=30,
    http=Http(method="POST", path="/api/canon/user/batch"),
    refusals=_WRITE,
    example={"items": [{"key": "a", "value": 1}, {"key": "b", "value": 2}]},
)
USER_ERASE = Command(
    name="canon/user/erase",
    service=SERVICE,
    request=UserErase,
    reply=Erased,
    summary="Make all versions of a thing of one's own unreadable, for ever.",
    action=Action.DELETE,
    target=Target.MEMORY,
    rung=Loa.OPERATOR,
    writes=("erasure",),
    # Taking back what one said brakes: it gives nobody anything. An operator's `delete` never passes the trust model, and what is one's own
    # must not wait for somebody of a higher level.
    scored=False,
    http=Http(method="POST", path="/api/canon/user/erase"),
    refusals=(Code.NOT_FOUND, *_WRITE),
    example={"kind": "memory_block", "key": "greeting"},
)
USER_LIST = Command(
    name="canon/user/list",
    service=SERVICE,
    request=UserList,
    reply=UserPage,
    summary="One's own user-space things.",
    action=Action.READ,
    target=Target.MEMORY,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/canon/user/list"),
    refusals=_READ,
)
USER_READ = Command(
    name="canon/user/read",
    service=SERVICE,
    request=UserRead,
    reply=UserView,
    summary="One user-space record of one's own.",
    action=Action.READ,
    target=Target.MEMORY,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/canon/user/read/{id}"),
    refusals=_READ,
)

COMMANDS = (MEMORY_WRITE, MEMORY_LIST, MEMORY_READ, USER_WRITE, USER_BATCH, USER_ERASE, USER_LIST, USER_READ)
