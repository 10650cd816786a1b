"""Consumers outside the house: who may read which kinds of the log, kept in the data folder, taken away at any time.

    consumers/<name>.json    what a consumer may read, and its public nkey; what nats-server is told of at each start
    <given folder>/seed      its nkey, made here, handed to its owner and kept nowhere else
    <given folder>/account.json   where to connect, what it may read, and what to pin: nothing secret

A consumer reads spaces and kinds that it was given, the public checkpoint, and what governs, without which no signature can be told from
another. What governs names who holds which licence. They connect outside of the house's own account; see `embedded.nats`.

At issuing: the owner's files first, then ours, then the running server. A crash between leaves files that are revoked like any other.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from sigilcore.contracts import house
from sigilrun import outside, private_files
from sigilrun.embedded import folder, nats, ports
from sigilrun.embedded.errors import EmbeddedError
from sigilrun.settings import DeploymentFile

Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,31}\Z")]


class Consumer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the house keeps of one."""

    name: Name
    public_nkey: str
    tenant: str
    scopes: tuple[tuple[str, str], ...]


class NoSuchConsumer(EmbeddedError):  # noqa: N818 - what is found
    """There is none of this name."""


class ConsumerRefused(EmbeddedError):  # noqa: N818 - what happened
    """It can't be issued like this; the message says why."""


def scopes_of(space: str | None, kinds: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The scopes of a space and its kinds, all of them if none is named; everything without a space.

    Raises:
        ConsumerRefused: there is no such space, or no such kind in it.

    """
    if space is None:
        if kinds:
            raise ConsumerRefused("a kind stands in a space: name both, or neither for the whole log")
        # And what governs, by itself: it tells who may sign the log's checkpoints after a rotation.
        return (house.EVERYTHING, house.GOVERNING)
    known = house.kinds_in(space)
    if not known:
        raise ConsumerRefused(f"no space {space!r}: user, audit or system")
    for kind in kinds:
        if kind not in known:
            raise ConsumerRefused(f"no kind {kind!r} in {space}; there are {', '.join(known)}")
    return (*((space, kind) for kind in dict.fromkeys(kinds or known)), house.GOVERNING)


def listed(data: Path) -> list[Consumer]:
    """All consumers of a data folder, by name."""
    return [_read(path) for path in sorted(_home(data).glob("*.json"))]


def bus_users(data: Path) -> list[nats.BusUser]:
    """As nats-server is told of them."""
    return [_bus_user(one) for one in listed(data)]


async def issue(data: Path, name: str, scopes: Sequence[tuple[str, str]], given: Path) -> Consumer:
    """Make a consumer; its owner's files stand in the new folder `given`.

    Raises:
        ConsumerRefused: the name is no name or taken, the folder exists, the house wasn't founded yet.
        StartFailed: the running server didn't take it; nothing is left.

    """
    path = _path(data, name)
    if path.exists():
        raise ConsumerRefused(f"there is a consumer {name} already: revoke it first, or choose another name")
    try:
        genesis = (data / "services" / "canon_reader" / "genesis").read_text("ascii").strip()
        deployment = msgspec.json.decode((data / "deployment.json").read_bytes(), type=DeploymentFile)
        port = json.loads((data / "ports.json").read_bytes())["nats"]
    except FileNotFoundError as error:
        raise ConsumerRefused("the canon has no genesis yet: sigil init first") from error
    seed, public = nats.generate_nkey()
    consumer = Consumer(name=name, public_nkey=public, tenant=deployment.tenant, scopes=tuple(scopes))
    account = outside.Account(
        name=name,
        url=f"nats://{ports.LOOPBACK}:{port}",
        scopes=consumer.scopes,
        genesis=genesis,
        deployment=deployment,
    )
    try:
        given.mkdir(mode=0o700)
    except FileExistsError:
        raise ConsumerRefused(f"{given} exists already") from None
    private_files.write_new(given / outside.SEED, seed.encode() + b"\n")
    private_files.write_new(given / outside.ACCOUNT, msgspec.json.format(msgspec.json.encode(account)) + b"\n")
    private_files.make_folder(_home(data))
    private_files.write_new(path, msgspec.json.encode(consumer) + b"\n")
    try:
        await _tell_server(data)
    except BaseException:
        for one in (path, given / outside.SEED, given / outside.ACCOUNT):
            one.unlink(missing_ok=True)
        given.rmdir()
        raise
    return consumer


async def revoke(data: Path, name: str) -> None:
    """End a consumer: it is cut off at once, and its seed opens nothing any more.

    Raises:
        NoSuchConsumer: there is none.
        StartFailed: the running server didn't hear of it; it will at its next start.

    """
    path = _path(data, name)
    try:
        path.unlink()
    except FileNotFoundError:
        raise NoSuchConsumer(f"there is no consumer {name}") from None
    private_files.sync_folder(path.parent)
    await _tell_server(data)


async def _tell_server(data: Path) -> None:
    """Give a running server the users as they are now; one that isn't running reads them at its start."""
    info = folder.running(data)
    pid = None if info is None else info.processes.get("nats")
    if pid is None:
        return
    monitor = json.loads((data / "ports.json").read_bytes())["nats_monitor"]
    with contextlib.suppress(ProcessLookupError):
        await nats.change_outside(data / "nats", monitor, pid, bus_users(data))


def _bus_user(one: Consumer) -> nats.BusUser:
    allowed = house.outside(one.name, one.tenant, one.scopes)
    return nats.BusUser(
        name=one.name, public_nkey=one.public_nkey, publish=allowed.publish, subscribe=allowed.subscribe
    )


def _home(data: Path) -> Path:
    return data / "consumers"


def _path(data: Path, name: str) -> Path:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise ConsumerRefused(f"{name!r} is no name: a letter, then letters, digits and dashes, 32 at most") from None
    if name in {*house.RESIDENTS, house.SUBSCRIBER.name, house.OPERATOR.name, house.KEEPER}:
        raise ConsumerRefused(f"{name} is of the house")
    return _home(data) / f"{name}.json"


def _read(path: Path) -> Consumer:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Consumer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConsumerRefused(f"{path} can't be read: {error}") from error
