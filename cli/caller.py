"""How verbs reach the gateway: the address, the profile's session, the owner's key if one is given."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec

from cli import seam
from cli.refusal import NoHouse, Refusal
from cli.seam import State
from sigilcore import licence, signing
from sigilcore.contracts.command import Command
from sigilrun import http, keys
from sigilrun.embedded import folder

DATA = Path("data")

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)


def signer(path: Path, passphrase: str) -> keys.SealedSigner:
    """The signer of a key file; the passphrase comes from where `passphrase` says."""
    return keys.open_key_file(path, keys.passphrase_from(passphrase))


def maybe_signer(path: Path | None, passphrase: str) -> keys.SealedSigner | None:
    """As `signer`, for verbs that can do without."""
    return None if path is None else signer(path, passphrase)


def address_of(state: State, data: Path | None = None) -> str:
    """Where the gateway is: `--address`, `SIGIL_ADDRESS`, the data folder's running stack, or what the profile keeps."""
    given = state.address or os.environ.get("SIGIL_ADDRESS")
    if given:
        if not given.startswith(("http://", "https://")):
            raise Refusal(f"{given} is no address", "Write it as http://HOST:PORT or https://HOST.")
        return given
    about = state.kept.about
    if data is None and about is not None:
        return about.address
    running = folder.running(data or DATA)
    if running is not None and running.address:
        return running.address
    if about is not None:
        return about.address
    raise NoHouse("no stack is known", "Start one with sigil up, or name it with --address.")


def _check_owner(state: State, owner: signing.Signer) -> None:
    """Who proves by their own key has the key of the profile's licence; the house could only say that some signature is wrong."""
    toml = state.kept.license_toml
    try:
        bound = None if toml is None else licence.parse(toml).license.owner
    except ValueError:
        return
    if bound is not None and bound.key not in {None, owner.public_key.hex()}:
        raise Refusal(
            f"this key isn't {bound.id}'s, whose licence the profile keeps",
            "Name their key file, or another --profile.",
        )


@contextlib.asynccontextmanager
async def calling(
    state: State, *, owner: signing.Signer | None = None, as_stranger: bool = False
) -> AsyncIterator[http.Client]:
    """A client in the profile's session, if one is open."""
    opened = None if as_stranger else state.kept.session(http.Session)
    if opened is not None and owner is not None:
        _check_owner(state, owner)
    async with http.Client(address_of(state), opened=opened, owner=owner) as client:
        yield client


def ask(state: State, command: Command[Req, Rep], request: Req, *, owner: signing.Signer | None = None) -> Rep:
    """One call in the profile's session, if one is open: all that most verbs do."""

    async def work() -> Rep:
        async with calling(state, owner=owner) as client:
            return await client.call(command, request)

    return seam.wait(work())
