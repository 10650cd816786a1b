"""What people wrote: memory, documents and values, each a version of one thing of one owner.

Signed by the service that owns the command, for whom the `decision` link says; or by the person, when a key-bound licensee submits a
finished record.
"""

from typing import Annotated, Any, Literal

import msgspec

from sigilcore import decision
from sigilcore.record_types import Name, RecordId
from sigilcore.records.kind import Kind

MAX_ERASED = 25_000  # versions of one thing; their ids are just below the bound of the kind

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=256, description="names the thing among its owner's things")]
Tags = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...], msgspec.Meta(max_length=32)]


ErasableKind = Literal["memory_block", "document", "user_value"]

FAMILIES = {"memory_block": "mem", "user_value": "val", "document": "rag"}


def key_of_slug(kind: str, owner: str, slug: str) -> str:
    """The key of a thing that is known by its short name."""
    return f"{FAMILIES[kind]}::{owner}::{slug}"


class MemoryBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A remembered text; `key` is `mem::<owner>::<slug>`. `origin` says where it came from, `admitted_at` at which level."""

    owner: Name
    key: Key
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]
    tags: Tags
    origin: Annotated[str, msgspec.Meta(max_length=64)]
    admitted_at: str
    request: decision.Request | None


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document of its owner, with its source and licence (SPDX)."""

    owner: Name
    key: Key
    title: Annotated[str, msgspec.Meta(max_length=512)]
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=262_144)]
    source: Annotated[str, msgspec.Meta(max_length=1024)]
    licence: Annotated[str, msgspec.Meta(max_length=128)]
    request: decision.Request | None


class UserValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Any JSON value under a key of its owner's."""

    owner: Name
    key: Key
    value: Any
    request: decision.Request | None


class Erasure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of all that was written of a thing so far: the data key is destroyed in the commit that this record stands in.

    `records` are the thing's versions since it was last erased, in order, all of them: one key sealed them, and none survives it. `prev` is
    the hash of the newest, so a version that came between is never overlooked. The owner asked for it by `request`; where it is None, the
    quorum did, and `decision` links its order.
    """

    owner: Name
    kind: ErasableKind
    key: Key
    records: Annotated[tuple[RecordId, ...], msgspec.Meta(max_length=MAX_ERASED)]
    request: decision.Request | None


def _kind(tag: str, payload: type[msgspec.Struct], summary: str, max_bytes: int, *, erases: bool = False) -> Kind:
    return Kind(
        tag=tag,
        payload=payload,
        space="user",
        summary=summary,
        authors=("knowledge",),
        effect=True,
        max_bytes=max_bytes,
        subject=lambda p: p.owner,
        thing=lambda p: p.key,
        erases=erases,
    )


KINDS = (
    _kind("memory_block", MemoryBlock, "A remembered text.", 80 * 1024),
    _kind("document", Document, "A document with source and licence.", 1 << 20),
    _kind("user_value", UserValue, "A JSON value under a key.", 512 * 1024),
    _kind("erasure", Erasure, "The payloads of a thing's versions so far are gone.", 1 << 20, erases=True),
)
