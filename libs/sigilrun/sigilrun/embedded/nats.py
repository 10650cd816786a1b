"""nats-server for one machine: how it is configured, who may say what, when it is ready.

Invariants:

- loopback only; the monitoring port too, and it shows counters and names, never messages or keys;
- every acknowledgement comes after fsync (`sync_interval: always`), and the server isn't ready until /varz
  says so;
- streams are encrypted at rest; the key lies in a 0600 file that the configuration includes, so it appears
  neither on a command line nor in an environment;
- a user may publish and subscribe what is listed and nothing else: an empty list is nothing, not anything;
- JetStream is in an account of its own, the house in another, and who isn't of the house in a third: from none of them can a subject of
  another be named, not even as the reply of a request, and what crosses is listed, with who may take it. The users outside of the house
  stand in a file of their own and change while the server runs.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import nkeys

from sigilrun.embedded import folder, ports, spawn, supervisor
from sigilrun.embedded.errors import EmbeddedError, StartFailed

HOUSE = "HOUSE"
# JetStream's. The house had this name when it held the streams too; they are sealed under it, so it stays theirs.
STREAMS = "SIGIL"
OUTSIDE = "OUTSIDE"
# Holds a full batch of records and a large document; the default of 1 MiB holds neither.
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
# Every service once, tools and tests beside them.
MAX_CONNECTIONS = 256
MAX_MEMORY_BYTES = 256 * 1024 * 1024
# The stream is a copy of what Postgres holds; a full one is refilled, an endless one fills the disk.
MAX_FILE_BYTES = 8 * 1024 * 1024 * 1024
# Answers a service may send to one request it received: the answer itself, and the few "still working"
# of a JetStream message. Within the longest deadline a request can have.
RESPONSES_MOST = 8
RESPONSES_EXPIRE = "2m"

# Fewer than the server's, so that the house finds a place. What comes from outside are questions.
OUTSIDE_CONNECTIONS = 128
OUTSIDE_PAYLOAD_BYTES = 64 * 1024
ROOM_BYTES = 16 * 1024 * 1024  # enough for a stream to go on: two of its largest batches
RELOAD_S = 10.0
_RELOAD_LOOK_S = 0.05

# A subject, and for a subscription optionally a queue name. Quotes can't get into the configuration.
_SUBJECT = re.compile(r"[^\s\"\\]+( [^\s\"\\]+)?")
_USER_NKEY = re.compile(r"U[A-Z2-7]{55}")


class BusUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may connect, and what it may say and hear. Its seed stays with the service."""

    name: str
    public_nkey: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    # May answer to the reply subject of a message it received, wherever that is.
    allow_responses: bool = False
    account: str = HOUSE


class Crossing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one account reaches of another: a question to ask there (service), or messages to hear from there (stream). Its users may each
    do a part of it."""

    kind: Literal["service", "stream"]
    source: str
    subject: str
    into: str
    named: str = ""  # the subject there; empty: the same
    many: bool = False  # a question that more than one message answers


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One embedded server."""

    binary: Path
    folder: Path
    port: int
    monitor_port: int
    server_name: str

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{ports.LOOPBACK}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where /varz and /healthz are."""
        return f"http://{ports.LOOPBACK}:{self.monitor_port}"

    @property
    def config_file(self) -> Path:
        """The rendered configuration."""
        return self.folder / "nats.conf"

    @property
    def outside_file(self) -> Path:
        """The users outside the house, which the configuration includes."""
        return outside_file(self.folder)


def generate_nkey() -> tuple[str, str]:
    """A new user: (seed, public nkey). The seed is secret."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode(), public_nkey(seed.decode())


def public_nkey(seed: str) -> str:
    """The public half of a user's seed."""
    public: bytes = nkeys.from_seed(bytearray(seed.encode())).public_key
    return public.decode()


def kept_nkey(seed_file: Path) -> str:
    """The public nkey of the seed in a file; the seed is made, and written 0600, at the first call."""
    if not seed_file.exists():
        folder.write_private(seed_file, generate_nkey()[0].encode() + b"\n")
    return public_nkey(seed_file.read_text("ascii").strip())


def new_server_name() -> str:
    """A name that tells this data folder's server from any other on the same port."""
    return f"sigil-{secrets.token_hex(6)}"


def outside_file(nats_folder: Path) -> Path:
    """Where the users outside the house are."""
    return nats_folder / "outside.conf"


def render_config(settings: Settings, users: Sequence[BusUser], crossings: Sequence[Crossing] = ()) -> str:
    """The server's configuration, without the stream key and the users outside the house, which it includes.

    Raises:
        EmbeddedError: a subject or nkey isn't one, or two users share an nkey.

    """
    _refuse_doubles(users)
    store = json.dumps(str(settings.folder))
    return f"""server_name: {json.dumps(settings.server_name)}
listen: "{ports.LOOPBACK}:{settings.port}"
http: "{ports.LOOPBACK}:{settings.monitor_port}"
pid_file: {json.dumps(str(settings.folder / "nats.pid"))}
max_payload: {MAX_PAYLOAD_BYTES}
max_pending: {8 * MAX_PAYLOAD_BYTES}
max_connections: {MAX_CONNECTIONS}
ping_interval: "10s"
ping_max: 3
jetstream {{
  store_dir: {store}
  max_memory_store: {MAX_MEMORY_BYTES}
  max_file_store: {MAX_FILE_BYTES}
  sync_interval: always
  cipher: chachapoly
  include "stream_key.conf"
}}
accounts {{
  {STREAMS} {{
    jetstream: enabled
{_render_account(STREAMS, users, crossings)}
  }}
  {HOUSE} {{
{_render_account(HOUSE, users, crossings)}
  }}
  {OUTSIDE} {{
    limits {{ max_connections: {OUTSIDE_CONNECTIONS}, max_payload: {OUTSIDE_PAYLOAD_BYTES} }}
{_render_crossings(OUTSIDE, crossings)}
    include {json.dumps(settings.outside_file.name)}
  }}
}}
"""


def render_outside(users: Sequence[BusUser]) -> str:
    """The users outside the house.

    Raises:
        EmbeddedError: a subject or nkey isn't one, or two users share an nkey.

    """
    _refuse_doubles(users)
    text = "\n".join(_render_user(user) for user in users)
    return f"# Who isn't of the house; written by the house, kept in its data folder.\nusers: [\n{text}\n]\n"


def prepare(
    settings: Settings,
    users: Sequence[BusUser],
    *,
    crossings: Sequence[Crossing] = (),
    outside: Sequence[BusUser] = (),
) -> None:
    """Write the configuration, and at the first run the stream key."""
    key_file = settings.folder / "stream_key.conf"
    if not key_file.exists():
        folder.write_private(key_file, f'key: "{secrets.token_hex(32)}"\n'.encode())
    folder.write_private(settings.outside_file, render_outside(outside).encode())
    folder.write_private(settings.config_file, render_config(settings, users, crossings).encode())


async def change_outside(nats_folder: Path, monitor_port: int, pid: int, users: Sequence[BusUser]) -> None:
    """Give a running server other users outside the house. Who is none any more is cut off; nobody else notices.

    Raises:
        StartFailed: the server didn't take them; it goes on as before, and the file is as before.

    """
    path = outside_file(nats_folder)
    before, loaded = path.read_bytes(), await _loaded(monitor_port)
    folder.write_private(path, render_outside(users).encode())
    os.kill(pid, signal.SIGHUP)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RELOAD_S):
            while await _loaded(monitor_port) == loaded:
                await asyncio.sleep(_RELOAD_LOOK_S)
            return
    folder.write_private(path, before)
    raise StartFailed("nats-server didn't take the new users; its log says why")


async def _loaded(monitor_port: int) -> str:
    """When the server last took a configuration."""
    return str((await _get(monitor_port, "/varz"))["config_load_time"])


def process(settings: Settings, log: Path) -> supervisor.ProcessSpec:
    """How the server is run."""
    return supervisor.ProcessSpec(
        name="nats",
        argv=(str(settings.binary), "-c", str(settings.config_file)),
        # One core is more than one writer's bus can fill. With more of them the server's idle threads look for work at others' cost: on two
        # cores a quarter of all that a decision takes.
        env={**spawn.base_env(), "GOMAXPROCS": "1"},
        log=log,
        cwd=settings.folder,
        ready=lambda: ready(settings),
        sound=lambda: sound(settings),
        stop_signal=signal.SIGTERM,
        stop_timeout_s=8.0,
    )


async def ready(settings: Settings) -> bool:
    """True if our own server takes clients, JetStream works, and every write is synced.

    Raises:
        OSError: nobody listens yet.

    """
    if await _greeting_name(settings.port) != settings.server_name:
        return False
    if (await _get(settings.monitor_port, "/healthz?js-enabled-only=true")).get("status") != "ok":
        return False
    varz = await _get(settings.monitor_port, "/varz")
    return varz["server_name"] == settings.server_name and varz["jetstream"]["config"]["sync_always"] is True


async def sound(settings: Settings) -> bool:
    """False if a stream has stopped for want of room, and there is room now: nats-server takes nothing into such a stream any more, and
    says so, until it is started anew. While the disk is full a new start would only interrupt everybody.

    Raises:
        OSError: nobody listens.

    """
    error = str((await _get(settings.monitor_port, "/healthz")).get("error", ""))
    if "write error" not in error:
        return True
    found = os.statvfs(settings.folder)
    return found.f_bavail * found.f_frsize < ROOM_BYTES


def _refuse_doubles(users: Sequence[BusUser]) -> None:
    for what, values in (("name", [u.name for u in users]), ("nkey", [u.public_nkey for u in users])):
        if len(set(values)) != len(values):
            raise EmbeddedError(f"two bus users share a {what}")


def _render_account(name: str, users: Sequence[BusUser], crossings: Sequence[Crossing]) -> str:
    users_text = "\n".join(_render_user(user) for user in users if user.account == name)
    return f"    users: [\n{users_text}\n    ]\n{_render_crossings(name, crossings)}"


def _render_crossings(name: str, crossings: Sequence[Crossing]) -> str:
    """What this account gives, each thing once and to the accounts that take it; and what it takes."""
    given: dict[tuple[str, str, bool], list[str]] = {}
    for one in crossings:
        if one.source == name:
            given.setdefault((one.kind, one.subject, one.many), []).append(one.into)
    exports = ", ".join(
        f"{{ {kind}: {json.dumps(subject)}, accounts: {json.dumps(takers)}{', response_type: stream' if many else ''} }}"
        for (kind, subject, many), takers in given.items()
    )
    imports = ", ".join(
        f"{{ {one.kind}: {{ account: {one.source}, subject: {json.dumps(one.subject)} }}, to: {json.dumps(one.named or one.subject)} }}"
        for one in crossings
        if one.into == name
    )
    return f"    exports: [ {exports} ]\n    imports: [ {imports} ]"


def _render_user(user: BusUser) -> str:
    if not _USER_NKEY.fullmatch(user.public_nkey):
        raise EmbeddedError(f"bus user {user.name}: not a public user nkey")
    permissions = [f"publish: {_allow(user, user.publish)}", f"subscribe: {_allow(user, user.subscribe)}"]
    if user.allow_responses:
        permissions.append(f'allow_responses: {{ max: {RESPONSES_MOST}, expires: "{RESPONSES_EXPIRE}" }}')
    return f"      {{ nkey: {user.public_nkey}, permissions: {{ {', '.join(permissions)} }} }}"


def _allow(user: BusUser, subjects: Sequence[str]) -> str:
    for subject in subjects:
        if not _SUBJECT.fullmatch(subject):
            raise EmbeddedError(f"bus user {user.name}: not a subject: {subject!r}")
    if not subjects:
        return '{ deny: [">"] }'
    return f"{{ allow: {json.dumps(list(subjects))} }}"


async def _greeting_name(port: int) -> str:
    """The server's name from the INFO line it greets clients with."""
    async with _connection(port) as (reader, _):
        line = await reader.readline()
    info = json.loads(line.removeprefix(b"INFO "))
    return str(info["server_name"])


async def _get(port: int, path: str) -> dict[str, Any]:
    """One JSON document from the monitoring port; in HTTP/1.0 the answer ends where the stream ends."""
    async with _connection(port) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {ports.LOOPBACK}\r\n\r\n".encode())
        answer = await reader.read()
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    return document if isinstance(document, dict) else {}


@contextlib.asynccontextmanager
async def _connection(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(ports.LOOPBACK, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
