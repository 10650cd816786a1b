"""A small disk of one's own, to be filled: a tmpfs in a mount namespace that ends with the process which holds it.

Root may mount in a namespace of its own, and on most systems an ordinary user may in a user namespace. Nothing is mounted where anybody
else sees it; the way there is through `/proc`. Where neither is allowed (`way` is None) nothing that needs it is collected, and the
head of the test run says so.
"""

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_WAYS = (
    ("unshare", "--mount"),
    ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount"),
)
_MOUNT = 'mount -t tmpfs -o size="$1"m,mode=700 small "$2" && echo mounted && exec sleep infinity'
_CHUNK = bytes(64 * 1024)


class SmallDisk:
    """A folder with so much room and no more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all room but this."""
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while (room := self.free_bytes - leave_bytes) > 0:
                ballast.write(_CHUNK[: min(room, len(_CHUNK))])

    def make_room(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(way: tuple[str, ...], folder: Path, size_mb: int) -> Iterator[Path | None]:
    """The mounted folder, or None if it can't be."""
    argv = [*way, "sh", "-c", _MOUNT, "sh", str(size_mb), str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        try:
            assert holder.stdout is not None
            mounted = holder.stdout.readline() == b"mounted\n"
            yield Path(f"/proc/{holder.pid}/root{folder}") if mounted else None
        finally:
            holder.kill()


@functools.cache
def way() -> tuple[str, ...] | None:
    """How a small disk is made here; None if it can't be."""
    with tempfile.TemporaryDirectory() as folder:
        for one in _WAYS:
            with contextlib.suppress(OSError), _held(one, Path(folder).resolve(), 1) as mounted:
                if mounted is not None and os.access(mounted, os.W_OK):
                    return one
    return None


def run_inside(folder: Path, size_mb: int, argv: Sequence[str]) -> None:
    """Run a program for which this folder is a small disk; its output, and a failure with it, are ours. For who resolves links on the
    way, as SQLite does: it can't be led through `/proc`."""
    found = way()
    assert found is not None, "no small disk can be made here"
    folder.mkdir(mode=0o700, parents=True)
    mount = _MOUNT.replace("exec sleep infinity", 'shift 2 && exec "$@"')
    subprocess.run(
        [*found, "sh", "-c", mount, "sh", str(size_mb), str(folder.resolve()), *argv], check=True, timeout=60
    )


@contextlib.contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[SmallDisk]:
    """A disk of this size, gone with the block; `folder` is new."""
    found = way()
    assert found is not None, "no small disk can be made here"
    folder.mkdir(mode=0o700, parents=True)
    with _held(found, folder.resolve(), size_mb) as mounted:
        assert mounted is not None
        yield SmallDisk(mounted)
