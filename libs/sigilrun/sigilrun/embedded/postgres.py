"""Postgres for one machine: made once, run as nobody in particular, reached by password only.

Invariants:

- the server never runs as root. Root's runs give it a user number of its own that owns `postgres/` and
  nothing else; it reaches its data through its working folder (`/proc/self/cwd`), so no folder above is
  opened for it;
- a cluster appears whole: it is made beside its place and renamed, so there is no half cluster;
- loopback TCP with SCRAM passwords is the only way in; there is no socket file and no trusted line;
- a commit is on the disk when it is answered (`fsync`, `synchronous_commit`), and pages carry checksums;
- whatever is in the log, values aren't: error details, which quote rows, are left out.

After `kill -9` the server recovers by itself. Its processes hold the data folder's lock, so a new run can't
meet survivors, and a `postmaster.pid` found at the start of a run is known to be stale.
"""

import os
import pwd
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import msgspec

from sigilrun.embedded import binaries, folder, ports, spawn, supervisor
from sigilrun.embedded.errors import EmbeddedError, StartFailed

SUPERUSER = "postgres"
# The server's own user when we are root: from a range that Debian and systemd leave unused, and without an
# entry in the user table, so nothing else runs as it.
SERVER_UID = 60860
MAX_CONNECTIONS = 50
_INITDB_TIMEOUT_S = 120.0
_CONNECT_TIMEOUT_S = 5.0
_STATEMENT_TIMEOUT_S = 30.0
# The server enters its data folder before it changes user; this name leads there without passing the parents.
_HERE = "/proc/self/cwd"
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_HBA = """# Loopback and SCRAM, or nothing.
host all all 127.0.0.1/32 scram-sha-256
"""


class Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A database role; the password is secret."""

    name: str
    password: str
    login: bool = True


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One embedded server and its superuser's password."""

    binaries: binaries.PostgresBinaries
    folder: Path
    port: int
    superuser_password: str
    as_root: bool

    @property
    def data(self) -> Path:
        """The cluster itself."""
        return self.folder / "data"

    @property
    def uid(self) -> int | None:
        """Who the server runs as; None for ourselves."""
        return SERVER_UID if self.as_root else None

    @property
    def keep_search(self) -> bool:
        """Whether the server's user can't otherwise reach its programs, as in a wheel below /root."""
        return self.as_root and binaries.needs_search(self.binaries.postgres)


def render_config(port: int) -> str:
    """The server's configuration; initdb's own file is replaced by it."""
    return f"""listen_addresses = '{ports.LOOPBACK}'
port = {port}
unix_socket_directories = ''
max_connections = {MAX_CONNECTIONS}
superuser_reserved_connections = 3
password_encryption = 'scram-sha-256'

fsync = on
synchronous_commit = on
full_page_writes = on
wal_compression = on
wal_level = replica
max_wal_senders = 0
# A segment that isn't needed any more is removed, not kept under a new name with its old bytes: a key that was destroyed may be in it.
wal_recycle = off
min_wal_size = '32MB'
max_wal_size = '1GB'
checkpoint_timeout = '15min'

shared_buffers = '128MB'
work_mem = '8MB'
maintenance_work_mem = '128MB'
jit = off
max_logical_replication_workers = 0

# A connection whose client is gone is noticed within about half a minute, and so are its locks.
tcp_keepalives_idle = 10
tcp_keepalives_interval = 5
tcp_keepalives_count = 4
client_connection_check_interval = '10s'

timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_error_verbosity = terse
log_checkpoints = off
"""


async def prepare(settings: Settings, log: Path) -> None:
    """Make the cluster if there is none, write its configuration, clear what a killed server left.

    Raises:
        StartFailed: initdb failed; the message ends with its log.
        EmbeddedError: the cluster is of another Postgres.

    """
    if not (settings.data / "PG_VERSION").exists():
        await _make_cluster(settings, log)
    version = (settings.data / "PG_VERSION").read_text("ascii").strip()
    if version != str(binaries.POSTGRES_MAJOR):
        raise EmbeddedError(f"{settings.data} was made by Postgres {version}; we run {binaries.POSTGRES_MAJOR}")
    (settings.data / "postmaster.pid").unlink(missing_ok=True)
    for name, text in (("postgresql.conf", render_config(settings.port)), ("pg_hba.conf", _HBA)):
        folder.write_private(settings.data / name, text.encode())
    _own(settings.folder, settings.uid if settings.as_root else os.getuid())


def process(settings: Settings, log: Path) -> supervisor.ProcessSpec:
    """How the server is run. SIGINT: roll back what is open, checkpoint, leave. SIGQUIT: leave at once."""
    return supervisor.ProcessSpec(
        name="postgres",
        argv=(str(settings.binaries.postgres), "-D", _HERE),
        env={**spawn.base_env(), "LC_ALL": "C"},
        log=log,
        cwd=settings.data,
        ready=lambda: ready(settings),
        # Recovery replays at most max_wal_size; on a slow disk that takes a while.
        ready_timeout_s=120.0,
        stop_signal=signal.SIGINT,
        stop_timeout_s=10.0,
        second_signal=signal.SIGQUIT,
        second_timeout_s=6.0,
        # A killed postmaster's children leave when they notice; one that is told to quit tells them.
        death_signal=signal.SIGQUIT,
        user=settings.uid,
        keep_search=settings.keep_search,
    )


async def ready(settings: Settings) -> bool:
    """True if the superuser can ask a question, on the disk we made."""
    connection = await _connect(settings, SUPERUSER)
    try:
        place = await connection.fetchval("select current_setting('data_directory')")
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT_S)
    return bool(place == _HERE)


async def create_database(
    settings: Settings,
    name: str,
    *,
    owner: str,
    roles: Sequence[Role],
    scrubs: str | None = None,
) -> None:
    """Make the database and its roles so, whatever was there before; `owner` is one of the roles, `scrubs` the one that may let go of
    the write-ahead log.

    Passwords are set each time: the files they come from are the truth. Only the roles may connect.

    Raises:
        EmbeddedError: a name isn't a plain identifier, or the owner or who scrubs isn't among the roles.

    """
    for identifier in (name, owner, scrubs or owner, *(role.name for role in roles)):
        if not _IDENTIFIER.fullmatch(identifier):
            raise EmbeddedError(f"not a plain lower-case identifier: {identifier!r}")
    for one in (owner, scrubs or owner):
        if one not in {role.name for role in roles}:
            raise EmbeddedError(f"{one} isn't among the roles")
    connection = await _connect(settings, SUPERUSER)
    try:
        # A failing statement is quoted in the log, and these carry passwords.
        await connection.execute("set log_min_error_statement = 'panic'")
        for role in roles:
            await _ensure_role(connection, role)
        if not await connection.fetchval("select 1 from pg_database where datname = $1", name):
            await connection.execute(f"create database {name} owner {owner}")
        await connection.execute(f"alter database {name} owner to {owner}")
        await connection.execute(f"revoke all on database {name}, postgres, template1 from public")
        for role in roles:
            await connection.execute(f"grant connect on database {name} to {role.name}")
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT_S)
    if scrubs is None:
        return
    connection = await _connect(settings, name)
    try:
        await connection.execute(f"grant pg_checkpoint to {scrubs}")
        await connection.execute(f"grant execute on function pg_switch_wal() to {scrubs}")
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT_S)


async def _ensure_role(connection: asyncpg.Connection, role: Role) -> None:
    if not await connection.fetchval("select 1 from pg_roles where rolname = $1", role.name):
        await connection.execute(f"create role {role.name}")
    login = "login" if role.login else "nologin"
    password = await connection.fetchval("select quote_literal($1)", role.password)
    attributes = "nosuperuser nocreatedb nocreaterole noreplication nobypassrls"
    await connection.execute(f"alter role {role.name} {attributes} {login} password {password}")


async def _connect(settings: Settings, database: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=ports.LOOPBACK,
        port=settings.port,
        user=SUPERUSER,
        password=settings.superuser_password,
        database=database,
        ssl=False,
        timeout=_CONNECT_TIMEOUT_S,
        command_timeout=_STATEMENT_TIMEOUT_S,
    )


async def _make_cluster(settings: Settings, log: Path) -> None:
    draft, password_file = settings.folder / "new", settings.folder / "password"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    folder.write_private(password_file, settings.superuser_password.encode() + b"\n")
    # initdb, unlike the server, insists on a user that has a name.
    uid = _named_uid() if settings.as_root else os.getuid()
    _own(settings.folder, uid)
    options = (
        f"--username={SUPERUSER}",
        f"--pwfile={_HERE}/../{password_file.name}",
        "--auth=scram-sha-256",
        "--data-checksums",
        # A new segment is filled with zeros while a commit waits: with `wal_recycle = off` small ones cost no more than recycled ones did.
        "--wal-segsize=4",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
    )
    try:
        code = await spawn.run(
            (str(settings.binaries.initdb), "-D", _HERE, *options),
            env={**spawn.base_env(), "LC_ALL": "C"},
            log=log,
            cwd=draft,
            uid=uid if settings.as_root else None,
            keep_search=settings.keep_search,
            timeout_s=_INITDB_TIMEOUT_S,
        )
    finally:
        password_file.unlink(missing_ok=True)
    if code != 0:
        raise StartFailed(f"initdb ended with {code}; its log {log} ends:\n{supervisor.log_tail(log)}")
    draft.rename(settings.data)


def _named_uid() -> int:
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        raise EmbeddedError("no user is named nobody, and initdb needs a named user that isn't root") from None


def _own(path: Path, uid: int | None) -> None:
    """Give the folder and everything in it to one user; a no-op for what is that user's already."""
    if uid is None:
        return
    for place, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            target = Path(place, name)
            if target.lstat().st_uid != uid:
                os.chown(target, uid, uid, follow_symlinks=False)
