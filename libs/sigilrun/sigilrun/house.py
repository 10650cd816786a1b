"""The house on one machine: a data folder becomes keys, settings and processes, and they run until told to stop.

Decides which process gets which file, and nothing about what they do. The first run makes, each thing once and whole:

    keys/passphrase          opens the keystore; random
    keystore/                the services' signing keys, the log's key, the key that wraps data keys
    deployment.json          runtime id, tenant, the services' public keys, the log's verifier key
    bootstrap.token          the one-time token; `keys/bootstrap_token_hash` is all that services see of it
    keys/bus_<identity>      how a process, the subscriber and the operator's tools show themselves to the bus
    consumers/               who outside the house may read what, one file each
    config.toml              settings that the operator may edit; addresses are given anew at each start

Invariants:

- a first run that broke off anywhere is finished by the next one; nothing that was made is made again;
- a process is told of its own nkey, of the keystore only if it signs, of the database only if it is canon's;
- services are named by their modules and run as processes: this floor imports none of them.
"""

import asyncio
import contextlib
import json
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import tomli_w

from sigilcore import canonical, digest, ids, note
from sigilcore.contracts import canon, house
from sigilrun import consumers, identities, key_format, keys, settings
from sigilrun.embedded import nats, spawn, stack, supervisor
from sigilrun.embedded.errors import StartFailed
from sigilrun.embedded.folder import DataFolder, write_private

TENANT: Final = "default"
ROLES: Final = ("canon_owner", "canon_writer", "canon_reader")
MIGRATE: Final = "services.canon_writer.migrate"
MIGRATE_TIMEOUT_S: Final = 60.0
READY_TIMEOUT_S: Final = 45.0
WATCH_S: Final = 2.0
ASK_S: Final = 3.0
MAX_ANSWER_BYTES: Final = 65_536
FACE: Final = "gateway"
SERVERS: Final = ("nats", "postgres")
KNOWS_TOKEN_HASH: Final[Mapping[str, str]] = {
    canon.WRITER: "SIGIL_CANON_BOOTSTRAP_TOKEN_HASH_FILE",
    "license": "SIGIL_DEPLOYMENT_BOOTSTRAP_TOKEN_HASH_FILE",
}
PAGE: Final = Path(__file__).resolve().parents[3] / "ui" / "dist"


Tell = Callable[["Ready"], None]


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What a person who started the house wants to know."""

    address: str
    bootstrap_token_file: Path | None  # None once Root exists


class Layout:
    """Where the house keeps its files in a data folder."""

    def __init__(self, data: Path) -> None:
        """Nothing is read or made."""
        self.data = data.absolute()
        self.keys = self.data / "keys"
        self.keystore = self.data / "keystore"
        self.passphrase = self.keys / "passphrase"
        self.deployment = self.data / "deployment.json"
        self.config = self.data / "config.toml"
        self.token = self.data / "bootstrap.token"
        self.token_hash = self.keys / "bootstrap_token_hash"

    def role_password(self, role: str) -> Path:
        """The password of a database role, where the embedded stack keeps it."""
        return self.keys / f"postgres_role_{role}"


# Making what is missing


def furnish(folder: DataFolder) -> tuple[nats.BusUser, ...]:
    """Make whatever the data folder lacks; the bus's users, with what each may say and hear."""
    layout = Layout(folder.path)
    if not layout.deployment.exists():
        _deploy(folder, layout)
    token = _token(layout)
    folder.update(bootstrap_token=token)
    return tuple(identities.bus_users(layout.keys, TENANT))


def _deploy(folder: DataFolder, layout: Layout) -> None:
    """Keys first, deployment.json last: it is there only when every key is."""
    folder.secret(layout.passphrase.name)
    passphrase = keys.passphrase_from(f"file:{layout.passphrase}")
    try:
        store = keys.Keystore.open(layout.keystore, passphrase)
    except keys.KeyMissing:
        # 32 random bytes can't be guessed, at whatever price; and each service that opens the keystore pays it at its start.
        store = keys.Keystore.create(layout.keystore, passphrase, kdf=key_format.CHEAPEST)
    have = store.names()
    for name in (*house.SERVICE_KEYS, house.LOG_KEY):
        if name not in have:
            store.generate(name)
    if house.PAYLOAD_KEY not in have:
        store.generate_aead(house.PAYLOAD_KEY)
    runtime_id = ids.new()
    log_key = note.VerifierKey.of(house.origin(runtime_id, TENANT), note.ED25519, store.public(house.LOG_KEY))
    deployed = settings.DeploymentFile(
        runtime_id=runtime_id,
        tenant=TENANT,
        services={name: store.public(name).hex() for name in house.SERVICE_KEYS},
        log=log_key.format(),
    )
    store.close()
    write_private(layout.deployment, canonical.of(deployed) + b"\n")


def _token(layout: Layout) -> str:
    """The one-time token; its hash is written first, so that no token is ever shown that the writer doesn't know."""
    with contextlib.suppress(FileNotFoundError):
        return layout.token.read_text("ascii").strip()
    token = secrets.token_urlsafe(32)
    write_private(layout.token_hash, digest.sha256_hex(token.encode()).encode() + b"\n")
    write_private(layout.token, token.encode() + b"\n")
    return token


def write_config(layout: Layout, addresses: stack.Addresses) -> None:
    """The operator's settings, once; what is in there afterwards is theirs."""
    if layout.config.exists():
        return
    document = {
        "bus": {"url": addresses.nats_url, "nkey_seed_file": "keys/bus_{resident}"},
        "deployment": {"file": layout.deployment.name},
        "service": {"state_dir": "services/{resident}"},
        # Plain HTTP on loopback is all that an embedded house has; a proxy that ends TLS sets this to true.
        "gateway": {"host": "127.0.0.1", "cookie_secure": False},
        "telemetry": {"level": "info", "json": True},
    }
    write_private(layout.config, tomli_w.dumps(document).encode())


# Processes


def processes(
    folder: DataFolder, addresses: stack.Addresses, overrides: Mapping[str, str]
) -> tuple[supervisor.ProcessSpec, ...]:
    """All residents. They start side by side and wait for what they need by themselves; they stop backwards, so that nobody's last
    words are refused."""
    layout = Layout(folder.path)
    write_config(layout, addresses)
    return tuple(_process(resident, folder, layout, addresses, overrides) for resident in house.RESIDENTS.values())


def _process(
    resident: house.Resident,
    folder: DataFolder,
    layout: Layout,
    addresses: stack.Addresses,
    overrides: Mapping[str, str],
) -> supervisor.ProcessSpec:
    is_face = resident.name == FACE
    return supervisor.ProcessSpec(
        name=resident.name,
        argv=_python(resident.module),
        env={**environment(resident, layout, addresses), **overrides},
        log=folder.logs / f"{resident.name}.log",
        cwd=folder.service(resident.name),
        ready=(lambda: is_ready(addresses.address)) if is_face else None,
        ready_timeout_s=READY_TIMEOUT_S,
        after=_after(resident),
    )


def _after(resident: house.Resident) -> tuple[str, ...]:
    """Servers, then the pen and its reader, then who writes and reads through them, then the face."""
    canons = tuple(name for name, other in house.RESIDENTS.items() if other.database)
    if resident.database:
        return SERVERS
    if resident.name != FACE:
        return (*SERVERS, *canons)
    return (*SERVERS, *(name for name in house.RESIDENTS if name != FACE))


def environment(resident: house.Resident, layout: Layout, addresses: stack.Addresses) -> dict[str, str]:
    """All that one process is told: where its settings are, and the files that it may open."""
    told = {**spawn.base_env(), "SIGIL_CONFIG": str(layout.config), "SIGIL_BUS_URL": addresses.nats_url}
    if resident.keystore:
        told |= _keystore(layout)
    if resident.database:
        told |= _database(layout, addresses, resident.name)
    if resident.name == canon.WRITER:
        told["SIGIL_BUS_STREAM_NKEY_SEED_FILE"] = str(identities.seed_file(layout.keys, house.KEEPER))
        told["SIGIL_CANON_DATA_DIR"] = str(layout.data / "postgres")
        told["SIGIL_CANON_HIGH_WATER_FILE"] = str(layout.data / "services" / resident.name / "high_water")
    if resident.name in KNOWS_TOKEN_HASH:
        told[KNOWS_TOKEN_HASH[resident.name]] = str(layout.token_hash)
    if resident.name == FACE:
        told["SIGIL_GATEWAY_PORT"] = str(addresses.api_port)
        if PAGE.is_dir():
            told["SIGIL_GATEWAY_STATIC_DIR"] = str(PAGE)
    return told


def _keystore(layout: Layout) -> dict[str, str]:
    return {
        "SIGIL_KEYSTORE_PATH": str(layout.keystore),
        "SIGIL_KEYSTORE_PASSPHRASE_FILE": str(layout.passphrase),
    }


def _database(layout: Layout, addresses: stack.Addresses, role: str) -> dict[str, str]:
    return {
        "SIGIL_CANON_HOST": addresses.postgres_host,
        "SIGIL_CANON_PORT": str(addresses.postgres_port),
        "SIGIL_CANON_DATABASE": addresses.database,
        "SIGIL_CANON_USER": role,
        "SIGIL_CANON_PASSWORD_FILE": str(layout.role_password(role)),
    }


def _python(module: str) -> tuple[str, ...]:
    # -P: a file in the working folder is no module.
    return (sys.executable, "-P", "-m", module)


async def migrate(folder: DataFolder, addresses: stack.Addresses) -> None:
    """Bring the database to this program's tables, as their owner; safe to run again.

    Raises:
        StartFailed: it couldn't; the message ends with the log.

    """
    layout = Layout(folder.path)
    write_config(layout, addresses)
    log = folder.logs / "migrate.log"
    supervisor.rotate(log)  # what it said of an earlier try is no reason of this one
    writer = house.RESIDENTS[canon.WRITER]
    env = {
        **spawn.base_env(),
        "SIGIL_CONFIG": str(layout.config),
        "SIGIL_BUS_URL": addresses.nats_url,
        **_database(layout, addresses, ROLES[0]),
    }
    code = await spawn.run(
        _python(MIGRATE), env=env, log=log, cwd=folder.service(writer.name), timeout_s=MIGRATE_TIMEOUT_S
    )
    if code != 0:
        raise StartFailed(f"the migration ended with {code}; its log {log} ends:\n{supervisor.log_tail(log)}")


# Running


async def run(data: Path, *, port: int | None, tell: Tell, overrides: Mapping[str, str] | None = None) -> None:
    """Run the house on a data folder until a signal; `tell` is called once, when it answers.

    Raises:
        EmbeddedError: the data is in use, a port is taken, a server or a process doesn't start.
        KeystoreError: the keystore of an earlier run can't be opened.

    """
    held: list[DataFolder] = []
    watches: list[asyncio.Task[None]] = []

    def bus_users(folder: DataFolder) -> tuple[nats.BusUser, ...]:
        held.append(folder)
        return furnish(folder)

    def started(running: stack.Stack) -> None:
        watches.append(asyncio.create_task(_announce(running, tell), name="announce"))

    plan = stack.Plan(
        bus_users=bus_users,
        outside=lambda folder: consumers.bus_users(folder.path),
        crossings=identities.crossings(TENANT),
        roles=ROLES,
        scrubs="canon_writer",
        prepare=lambda addresses: migrate(held[0], addresses),
        make_processes=lambda addresses: processes(held[0], addresses, overrides or {}),
        port=port,
    )
    try:
        await stack.run_stack(data, plan, started)
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


async def _announce(running: stack.Stack, tell: Tell) -> None:
    """Say ready; forget the bootstrap token in run.json as soon as Root exists."""
    address, layout = running.addresses.address, Layout(running.folder.path)
    bootstrapped = await is_bootstrapped(address)
    if bootstrapped:
        running.folder.update(bootstrap_token=None)
    tell(Ready(address=address, bootstrap_token_file=None if bootstrapped else layout.token))
    while not bootstrapped:
        await asyncio.sleep(WATCH_S)
        bootstrapped = await is_bootstrapped(address)
    running.folder.update(bootstrap_token=None)


async def is_ready(address: str) -> bool:
    """True if the face says that what it needs answers. A house whose pen may not write is up too: how else could it be restored?"""
    told = await _readiness(address)
    return told.get("ready") is True or told.get("state") == "read-only"


async def is_bootstrapped(address: str) -> bool:
    """True once Root exists; False while nobody can say."""
    return (await _readiness(address)).get("bootstrapped") is True


async def _readiness(address: str) -> dict[str, Any]:
    """What /readyz says, empty while nobody answers. The supervisor needs no HTTP library for one question."""
    return await asyncio.to_thread(_ask, f"{address}/readyz")


# Never by a proxy that the environment names: it is our own address.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _ask(url: str) -> dict[str, Any]:
    try:
        try:
            with _DIRECT.open(url, timeout=ASK_S) as answer:
                body = answer.read(MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as unready:
            body = unready.read(MAX_ANSWER_BYTES)
        told = json.loads(body)
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
