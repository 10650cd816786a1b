"""Things, their versions, and how they are named.

A thing's key is `<family>::<owner>::<slug>`. A slug holds no colon, so a key names one owner and one slug, whatever colons the owner's
name has.
"""

import re
from typing import NamedTuple

import msgspec

from sigilcore.records.user import FAMILIES, key_of_slug

DOCUMENT = ("title", "text", "source", "licence")  # what a document's value holds
FIRST_TIME = "0000"
LAST_TIME = "9999-12-31T23:59:60"
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class Thing(NamedTuple):
    """What has versions."""

    owner: str
    kind: str
    slug: str

    @property
    def key(self) -> str:
        """As its records name it."""
        return key_of_slug(self.kind, self.owner, self.slug)


class Version(msgspec.Struct, frozen=True, array_like=True):
    """One version of a thing, with the record that holds it. `number` counts from 1; `payload` is JCS."""

    owner: str
    kind: str
    slug: str
    number: int
    seq: int
    id: str
    hash: str
    ts: str
    payload: bytes


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which of an owner's things, from where in the order of slug and kind."""

    prefix: str = ""
    kind: str | None = None
    tag: str | None = None
    since: str = FIRST_TIME
    until: str = LAST_TIME
    after_slug: str = ""
    after_kind: str = ""


def slug_of(kind: str, owner: str, key: str) -> str:
    """The slug in a record's key. A key of another form keeps all of itself, behind colons that no slug has."""
    _, found, slug = key.partition(f"{FAMILIES[kind]}::{owner}::")
    return slug if found and Thing(owner, kind, slug).key == key and _SLUG.fullmatch(slug) else f"::{key}"


def key_of(thing: Thing) -> str:
    """The key in the thing's records; one of another form is all of its slug behind the colons."""
    return thing.slug.removeprefix("::") if thing.slug.startswith("::") else thing.key
