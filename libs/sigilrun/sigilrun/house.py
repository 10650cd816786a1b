"""The house on one machine: a data folder becomes keys, settings and processes, and they run until told to stop.

Decides which process gets which file, and nothing about what they do. The first run makes, each thing once and whole:

    keys/passphrase          opens the keystore; random
    keystore/                the services' signing keys, the log's key, the key that wraps data keys
    deployment.json          runtime id, tenant, the services' public keys, the log's verifier key
    bootstrap.token          the one-time token; `keys/bootstrap_token_hash` is all that services see of it
    keys/nkey_<identity>     how a process, the subscriber and the operator's tools show themselves to the bus
    config.toml              settings that the operator may edit; addresses are given anew at each start

Invariants:

- a first run that broke off anywhere is finished by the next one; nothing that was made is made again;
- a process is told of its own nkey, of the keystore only if it signs, of the database only if it is canon's;
- services are named by their modules and run as processes: this floor imports none of them.
"""

import asyncio
import contextlib
import importlib.util
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import tomli_w

from sigilcore import canonical, digest, ids, note
from sigilcore.contracts import canon, catalogue, house
from sigilrun import keys, settings
from sigilrun.embedded import binaries, nats, spawn, stack, supervisor
from sigilrun.embedded.errors import EmbeddedError, StartFailed
from sigilrun.embedded.folder import DataFolder, write_private

TENANT: Final = "default"
ROLES: Final = ("canon_owner", "canon_writer", "canon_reader")
PAYLOAD_KEY: Final = "payload"
MIGRATE: Final = "services.canon_writer.migrate"
MIGRATE_TIMEOUT_S: Final = 60.0
READY_TIMEOUT_S: Final = 45.0
WATCH_S: Final = 0.5
PAGE: Final = Path("ui/dist")

BUS_IDENTITIES: Final = (*house.RESIDENTS.values(), house.SUBSCRIBER, house.OPERATOR)


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

    def nkey(self, identity: str) -> Path:
        """The seed of a bus identity."""
        return self.keys / f"nkey_{identity}"

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
    return tuple(
        nats.BusUser(
            name=resident.name,
            public_nkey=nats.kept_nkey(layout.nkey(resident.name)),
            publish=allowed.publish,
            subscribe=allowed.subscribe,
            allow_responses=bool(catalogue.of_service(resident.name)),
        )
        for resident in BUS_IDENTITIES
        for allowed in (house.allowance(resident, TENANT),)
    )


def _deploy(folder: DataFolder, layout: Layout) -> None:
    """Keys first, deployment.json last: it is there only when every key is."""
    folder.secret(layout.passphrase.name)
    passphrase = keys.passphrase_from(f"file:{layout.passphrase}")
    try:
        store = keys.Keystore.open(layout.keystore, passphrase)
    except keys.KeyMissing:
        store = keys.Keystore.create(layout.keystore, passphrase)
    have = store.names()
    for name in (*house.SERVICE_KEYS, house.LOG_KEY):
        if name not in have:
            store.generate(name)
    if PAYLOAD_KEY not in have:
        store.generate_aead(PAYLOAD_KEY)
    runtime_id = ids.new()
    log_key = note.VerifierKey.of(
        house.origin(runtime_id, TENANT), note.ED25519, store.public(house.LOG_KEY)
    )
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
    token = ids.new().replace("-", "")[:0] + _random_token()
    write_private(layout.token_hash, digest.sha256_hex(token.encode()).encode() + b"\n")
    write_private(layout.token, token.encode() + b"\n")
    return token
