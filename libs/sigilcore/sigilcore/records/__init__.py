"""The registry of kinds: every tag that may stand in the canon, with its payload, space, authors and bounds.

A tag is permanent: it never names another payload, and reusing one fails at import. Unknown kinds are refused on write and carried
opaquely on read. One file a family: `system` (what governs), `audit` (what services did), `user` (what people wrote).
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sigilcore.records import audit, system, user
from sigilcore.records.kind import Kind

__all__ = ["REGISTRY", "Kind", "register"]


def register(families: Iterable[Iterable[Kind]]) -> Mapping[str, Kind]:
    """One table of all kinds; a tag or a payload name used twice is an error at import."""
    table: dict[str, Kind] = {}
    names: set[str] = set()
    for family in families:
        for kind in family:
            if kind.tag in table or kind.payload.__name__ in names:
                raise ValueError(f"kind {kind.tag!r} or payload {kind.payload.__name__!r} is taken")
            table[kind.tag] = kind
            names.add(kind.payload.__name__)
    return MappingProxyType(table)


REGISTRY: Mapping[str, Kind] = register((system.KINDS, audit.KINDS, user.KINDS))
