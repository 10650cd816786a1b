"""The built page: files read once at start, served by exact path, so that no path can leave the folder.

Files below `assets/` carry a hash in their name and never change; everything else is asked for anew each time.
"""

import mimetypes
from collections.abc import Mapping
from pathlib import Path

import msgspec

from services.gateway import answers

MAX_BYTES = 64 * 1024 * 1024
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".woff2": "font/woff2",
}


class File(msgspec.Struct, frozen=True):
    """One file as it is served."""

    body: bytes
    media: str
    cache: str


def load(folder: Path | None) -> Mapping[str, File]:
    """The files by their path in the address; `/` is index.html. Raises ValueError when they are too large to keep."""
    if folder is None:
        return {}
    found: dict[str, File] = {}
    kept = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        body = path.read_bytes()
        kept += len(body)
        if kept > MAX_BYTES:
            raise ValueError(f"{folder} holds more than {MAX_BYTES} bytes")
        name = path.relative_to(folder).as_posix()
        media = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        cache = answers.IMMUTABLE if name.startswith("assets/") else "no-cache"
        found[f"/{name}"] = File(body, media, cache)
    if "/index.html" in found:
        found["/"] = found["/index.html"]
    return found
