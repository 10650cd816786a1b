"""Named queries from `.sql` files, for every store: each under a line `-- name:`, with a sentence of its own."""

import re
from collections.abc import Mapping
from pathlib import Path

_NAMED = re.compile(r"^-- name: ([a-z_]+)[^\n]*\n", re.MULTILINE)


def queries(path: Path) -> Mapping[str, str]:
    """The queries of a file by their names; a name that stands twice is an error."""
    parts = _NAMED.split(path.read_text("utf-8"))[1:]
    names, texts = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: a query's name stands twice")
    return {name: text.strip().removesuffix(";") for name, text in zip(names, texts, strict=True)}
