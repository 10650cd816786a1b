"""nats-server for one machine: how it is configured, who may say what, when it is ready.

Invariants:

- loopback only; the monitoring port too, and it shows counters and names, never messages or keys;
- every acknowledgement comes after fsync (`sync_interval: always`), and the server isn't ready until /varz
  says so;
- streams are encrypted at rest; the key lies in a 0600 file that the configuration includes, so it appears
  neither on a command line nor in an environment;
- a user may publish and subscribe what is listed and nothing else: an empty list is nothing, not anything.
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
from typing import Any

import msgspec
import nkeys

from sigilrun.embedded import folder, ports, spawn, supervisor
from sigilrun.embedded.errors import EmbeddedError

ACCOUNT = "SIGIL"
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


def render_config(settings: Settings, users: Sequence[BusUser]) -> str:
    """The server's configuration, without the stream key, which it includes.

    Raises:
        EmbeddedError: a subject or nkey isn't one, or two users share an nkey.

    """
    _refuse_doubles(users)
    users_text = "\n".join(_render_user(user) for user in users)
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
  {ACCOUNT} {{
    jetstream: enabled
    users: [
{users_text}
    ]
  }}
}}
"""


def prepare(settings: Settings, users: Sequence[BusUser]) -> None:
    """Write the configuration, and at the first run the stream key."""
    key_file = settings.folder / "stream_key.conf"
    if not key_file.exists():
        folder.write_private(key_file, f'key: "{secrets.token_hex(32)}"\n'.encode())
    folder.write_private(settings.config_file, render_config(settings, users).encode())


def process(settings: Settings, log: Path) -> supervisor.ProcessSpec:
    """How the server is run."""
    return supervisor.ProcessSpec(
        name="nats",
        argv=(str(settings.binary), "-c", str(settings.config_file)),
        env=spawn.base_env(),
        log=log,
        cwd=settings.folder,
        ready=lambda: ready(settings),
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


def _refuse_doubles(users: Sequence[BusUser]) -> None:
    for what, values in (("name", [u.name for u in users]), ("nkey", [u.public_nkey for u in users])):
        if len(set(values)) != len(values):
            raise EmbeddedError(f"two bus users share a {what}")


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
