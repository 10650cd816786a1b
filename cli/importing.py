"""Files become documents: text taken out, names and ids derived from the paths, sent in batches, resumable at any point.

Invariants:

- a document's id comes from the deployment, its owner, its name and its text: the same file again is the same record
  (`existing`), a changed file a new version;
- a batch is sent until it is answered; what was acknowledged is counted once, whatever happened to the answer before;
- nothing larger than the gateway takes is sent.
"""

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from sigilcore import digest, ids
from sigilcore.contracts import knowledge
from sigilrun import http

TEXT_TYPES: Final = frozenset({".html", ".htm", ".md", ".txt", ".rst"})
# Below the gateway's body limit of 1 MiB, with room for JSON's escapes.
BATCH_BYTES: Final = 600 * 1024
BATCH_ITEMS: Final = 32
MAX_TEXT: Final = 262_144
GIVE_UP_S: Final = 120.0
_UNNAMEABLE: Final = re.compile(r"[^A-Za-z0-9._/-]+")
_SPACES: Final = re.compile(r"\n{3,}")


class TooLong(ValueError):  # noqa: N818 - what the text is
    """A text that no document holds."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it will be remembered."""

    key: str
    title: str
    text: str
    source: str
    licence: str

    def item(self, namespace: str) -> knowledge.Item:
        """What is sent; the id is the same whenever the same text comes under the same name."""
        name = f"document/{self.key}/{digest.sha256_hex(self.text.encode())}"
        value = {"title": self.title, "text": self.text, "source": self.source, "licence": self.licence}
        return knowledge.Item(kind="document", key=self.key, value=value, id=ids.derive(namespace, name))


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One acknowledged batch."""

    done: int
    total: int
    results: tuple[knowledge.BatchResult, ...]


def namespace(opened: http.Session) -> str:
    """What ids are derived from: the deployment and the owner, so that every run of the same owner derives the same."""
    return ids.derive(opened.runtime_id, f"import/{opened.genesis_hash}/{opened.owner_id}")


def files(roots: Iterable[Path]) -> list[tuple[Path, str]]:
    """All text files below the roots in order, each with its name; raises OSError for a root that isn't there."""
    found: list[tuple[Path, str]] = []
    for root in roots:
        root.stat()  # what isn't there is an error, not an empty folder
        if root.is_file():
            found.append((root, root.name))
            continue
        below = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in TEXT_TYPES)
        found += [(path, path.relative_to(root).as_posix()) for path in below]
    return found


def document(path: Path, name: str, *, prefix: str, licence: str, source: str = "") -> Document | None:
    """A file's text; None for one that holds none. Raises `TooLong`: nothing is cut in silence."""
    raw = path.read_text("utf-8", errors="replace")
    title, text = _page(raw) if path.suffix.lower() in {".html", ".htm"} else (name, raw)
    text = text.strip()
    if not text:
        return None
    if len(text) > MAX_TEXT:
        raise TooLong(f"{name} has {len(text)} characters, at most {MAX_TEXT}: split it")
    return Document(
        key=_key(prefix, name), title=title[:512] or name, text=text, source=(source or name)[:1024], licence=licence
    )


def batches(documents: Sequence[Document], namespace: str, *, most: int = BATCH_ITEMS) -> Iterator[knowledge.UserBatch]:
    """The documents in order, as many to a batch as fit."""
    items: list[knowledge.Item] = []
    size = 0
    for one in documents:
        item = one.item(namespace)
        weight = len(msgspec.json.encode(item))
        if items and (size + weight > BATCH_BYTES or len(items) == most):
            yield knowledge.UserBatch(items=tuple(items))
            items, size = [], 0
        items.append(item)
        size += weight
    if items:
        yield knowledge.UserBatch(items=tuple(items))


async def send(
    client: http.Client,
    documents: Sequence[Document],
    namespace: str,
    *,
    give_up_s: float = GIVE_UP_S,
    most: int = BATCH_ITEMS,
) -> AsyncIterator[Progress]:
    """Send them all; each batch until it is answered. What is refused is in the results."""
    done = 0
    for batch in batches(documents, namespace, most=most):
        written = await http.persistently(
            lambda batch=batch: client.call(knowledge.USER_BATCH, batch),  # type: ignore[misc]
            give_up_s=give_up_s,
        )
        done += len(batch.items)
        yield Progress(done=done, total=len(documents), results=written.items)


def _page(raw: str) -> tuple[str, str]:
    """Title and text of a page: its main part, without scripts, styles and navigation."""
    from selectolax.lexbor import LexborHTMLParser  # noqa: PLC0415 - only who imports pages parses HTML

    tree = LexborHTMLParser(raw)
    heading = tree.css_first("title")
    title = "" if heading is None else heading.text(strip=True)
    tree.strip_tags(["script", "style", "nav", "noscript", "template"])
    main = tree.css_first("main") or tree.body
    if main is None:
        return title, ""
    # Blocks stand on lines of their own in the source; a separator would also break lines at inline tags.
    text = main.text(separator="", strip=False)
    return title, _SPACES.sub("\n\n", "\n".join(line.rstrip() for line in text.splitlines()))


def _key(prefix: str, name: str) -> str:
    key = _UNNAMEABLE.sub("-", f"{prefix}/{name}" if prefix else name).lstrip("/.-_") or "document"
    # A long path keeps its end, which tells it apart, behind a hash of the whole.
    return key if len(key) <= 128 else f"{digest.sha256_hex(key.encode())[:16]}-{key[-100:].lstrip('/')}"
