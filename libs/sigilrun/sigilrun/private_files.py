"""Files that only their owner can reach; the checks are done on the open file, not on its name.

Invariants:

1. Nothing is read from a file that its group or others can read or write, that another user owns, that is a
   symbolic link, or that is no regular file. All of it is asked of the descriptor that is then read.
2. A new file has mode 0600 from its first moment and appears whole or not at all.
3. Nothing is ever overwritten; `replace` is for files that hold no secret.

Root can read everything and is not guarded against.
"""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from sigilrun import key_faults

_OTHERS = 0o077


def read(path: Path, max_bytes: int) -> bytes | None:
    """The file's bytes, or None if it holds more than `max_bytes`.

    Raises FileNotFoundError, and WrongPermissions for a file that isn't private.
    """
    # Without O_NONBLOCK a named pipe would hold us before we could see what it is.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        # A symbolic link is ELOOP, a socket ENXIO; all else is a matter of rights.
        kind = key_faults.NotRegularFile if error.errno in {errno.ELOOP, errno.ENXIO} else key_faults.WrongPermissions
        raise kind(f"{path} can't be opened: {error.strerror}.") from error
    try:
        _check(path, os.fstat(descriptor), directory=False)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    return data if len(data) <= max_bytes else None


def check_folder(path: Path) -> None:
    """Refuse a folder that isn't ours alone. Raises FileNotFoundError, WrongPermissions."""
    _check(path, path.lstat(), directory=True)


def make_folder(path: Path) -> None:
    """Make the folder with mode 0700, or accept one that is private already."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    check_folder(path)


def write_new(path: Path, data: bytes) -> None:
    """Make a file of mode 0600 that nobody sees half-written. Raises FileExistsError, changing nothing.

    The commit point is the link: a crash before it leaves at most a hidden scratch file, after it all of it.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.link(scratch, path, follow_symlinks=False)
    finally:
        scratch.unlink()
    sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Give a file that isn't secret other contents, whole or not at all: what it held is lost by no full disk."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with scratch.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(path.parent)


def _check(path: Path, status: os.stat_result, *, directory: bool) -> None:
    wanted = stat.S_ISDIR if directory else stat.S_ISREG
    if not wanted(status.st_mode):
        raise key_faults.NotRegularFile(f"{path} is not a {'folder' if directory else 'regular file'}.")
    if status.st_uid != os.geteuid():
        raise key_faults.WrongPermissions(f"{path} belongs to user {status.st_uid}, not to this one.")
    if status.st_mode & _OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise key_faults.WrongPermissions(f"{path} has mode {mode:04o}, so others can reach it.")


def sync_folder(path: Path) -> None:
    """Make the folder's names durable: what was made or linked in it stays after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
