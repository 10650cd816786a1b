"""The data folder: its layout, who may read it, who holds it, and run.json that says where the stack is.

    run.json          address, token, process ids; only while a stack runs, 0600
    lock              held by the supervisor and every process it started
    ports.json        the ports this folder keeps
    bootstrap.token   written by whoever issues it
    keys/             passwords, seeds and the stream's key, one file each, 0600
    logs/             one log per process and the one before
    nats/ postgres/   the two servers' own
    services/<name>/  one folder per service

Invariants:

- folders are 0700, files 0600, and no permission above the data folder is touched;
- a file is replaced whole or not at all;
- the lock is one open file shared by the supervisor and its children, so it is free only when the last of
  them has gone: two servers never share a store, not even after `kill -9`;
- who holds a folder is told by its lock: a run.json that a dead run left behind names process ids that may
  be anybody's by now;
- a folder that holds other things becomes no data folder.
"""

import contextlib
import datetime as dt
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from sigilrun.embedded.errors import DataInUse, EmbeddedError

# How long a new run waits for the children of a killed one to leave.
LEAVING_TIMEOUT_S = 15.0
_FOLDERS = ("keys", "logs", "nats", "postgres", "services")
# What stands in a data folder before its first run has taken the lock, or in one that was brought back from a backup.
_OURS = frozenset(
    {
        *_FOLDERS,
        "bootstrap.token",
        "config.toml",
        "consumers",
        "deployment.json",
        "keystore",
        "lock",
        "ports.json",
        "run.json",
    }
)


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What run.json says. Secret: it holds the bootstrap token."""

    address: str | None = None
    bootstrap_token: str | None = None
    nats: str | None = None
    processes: dict[str, int] = {}
    logs: str
    started_at: str
    supervisor: int


class DataFolder:
    """A data folder at a path; `acquire` it before writing anything but what it makes itself."""

    def __init__(self, path: Path) -> None:
        """Nothing is created or read yet."""
        self.path = Path(path).absolute()
        self._lock_fd: int | None = None
        self._info: RunInfo | None = None

    @property
    def run_file(self) -> Path:
        """Where programs read the address of the running stack."""
        return self.path / "run.json"

    @property
    def lock_file(self) -> Path:
        """Held while anything of a run is alive."""
        return self.path / "lock"

    @property
    def ports_file(self) -> Path:
        """The ports this folder keeps."""
        return self.path / "ports.json"

    @property
    def bootstrap_token_file(self) -> Path:
        """For the one who issues the bootstrap token."""
        return self.path / "bootstrap.token"

    @property
    def keys(self) -> Path:
        """Passwords, seeds and keys, one file each."""
        return self.path / "keys"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.path / "logs"

    @property
    def nats(self) -> Path:
        """nats-server's configuration and store."""
        return self.path / "nats"

    @property
    def postgres(self) -> Path:
        """Postgres's cluster."""
        return self.path / "postgres"

    @property
    def lock_fd(self) -> int:
        """The held lock, to be handed to every process of the run."""
        if self._lock_fd is None:
            raise EmbeddedError(f"{self.path} isn't held by this process")
        return self._lock_fd

    def service(self, name: str) -> Path:
        """A service's own folder, made if need be."""
        path = self.path / "services" / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def acquire(self, leaving_timeout_s: float = LEAVING_TIMEOUT_S) -> Self:
        """Make the layout and take the lock.

        Raises:
            DataInUse: another run holds it. Children of a killed run are waited for, a living one isn't.
            EmbeddedError: it holds other things, which would be shut away from everyone else.

        """
        refuse_foreign(self.path)
        _private_folder(self.path, parents=True)
        fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(fd, time.monotonic() + leaving_timeout_s)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            for name in _FOLDERS:
                _private_folder(self.path / name)
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._info = RunInfo(logs=str(self.logs), started_at=now, supervisor=os.getpid())
        return self

    def _lock(self, fd: int, deadline: float) -> None:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            holder = _holder(fd)
            if holder is not None and _alive(holder):
                raise DataInUse(f"{self.path} is in use by process {holder}")
            if time.monotonic() > deadline:
                raise DataInUse(f"{self.path} is still held by processes that process {holder} started")
            time.sleep(0.05)

    def release(self) -> None:
        """Remove run.json and let go of the lock."""
        if self._lock_fd is None:
            return
        self.run_file.unlink(missing_ok=True)
        os.close(self._lock_fd)
        self._lock_fd = self._info = None

    def update(self, **changes: Any) -> RunInfo:
        """Change fields of run.json, written whole.

        Raises:
            EmbeddedError: the folder isn't held by this process.

        """
        if self._info is None:
            raise EmbeddedError(f"{self.path} isn't held by this process")
        self._info = msgspec.structs.replace(self._info, **changes)
        write_private(self.run_file, msgspec.json.format(msgspec.json.encode(self._info)) + b"\n")
        return self._info

    def secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        """The secret in `keys/<name>`, made at the first call and kept."""
        path = self.keys / name
        with contextlib.suppress(FileNotFoundError):
            return path.read_text("utf-8").strip()
        value = make()
        write_private(path, value.encode() + b"\n")
        return value


def running(path: Path) -> RunInfo | None:
    """What run.json says, if a stack holds the folder now; None for a folder at rest or a stale file."""
    try:
        info = msgspec.json.decode((path / "run.json").read_bytes(), type=RunInfo)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return info if info.supervisor == holder(path) else None


def holder(path: Path) -> int | None:
    """The process that runs a stack on the folder, by its lock, whether or not run.json is there; None for a folder at rest."""
    try:
        fd = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _holder(fd)
        return pid if pid is not None and _alive(pid) else None
    finally:
        os.close(fd)
    return None


def refuse_foreign(path: Path) -> None:
    """Raises `EmbeddedError` for a folder that isn't empty and was never a data folder."""
    if not path.is_dir() or (path / "lock").exists():
        return
    others = sorted({entry.name for entry in path.iterdir()} - _OURS)
    if others:
        raise EmbeddedError(f"{path} holds other things ({others[0]}): name a new or an empty folder")


def write_private(path: Path, content: bytes) -> None:
    """Replace a file whole, readable by its owner only, and on the disk before it has its name."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _private_folder(path: Path, *, parents: bool = False) -> None:
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)


def _holder(fd: int) -> int | None:
    digits = os.pread(fd, 32, 0).strip()
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _alive(pid: int) -> bool:
    """True if it runs; one that was killed and isn't reaped yet holds nothing any more."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The name in parentheses may hold anything; the state is the first field behind it.
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
