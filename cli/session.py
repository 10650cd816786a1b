"""`sigil init | login | logout | whoami`: who one is to a house.

The session's own key pair is made here and kept in the profile for hours; the owner's key only signs the certificate.
"""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from cli import blueprint, building, caller, owner, profiles, seam
from cli.refusal import NoHouse, Refusal
from cli.seam import PROMPT, Passphrase, State
from sigilcore import canonical, clock, licence
from sigilcore.contracts import gatekeeper
from sigilcore.contracts.common import Empty
from sigilcore.refusals import Code, Refused
from sigilrun import http, keys, private_files, settings
from sigilrun.embedded import folder

Data = Annotated[
    Path, typer.Option("--data", envvar="SIGIL_DATA", help="the stack's data folder, if it is on this machine")
]
Token = Annotated[
    Path | None, typer.Option("--token", help="file with the one-time bootstrap token; by default the data folder's")
]
License = Annotated[Path | None, typer.Option("--license", help="a licence (TOML); by default the profile's")]
May = Annotated[
    list[str] | None,
    typer.Option("--may", help="a mentor- or root-rung command that the session may do for 15 minutes; repeat it"),
]
# What the house says of a session that it ended itself: there is nothing left to close.
OVER = frozenset({Code.SESSION_INVALID, Code.SESSION_EXPIRED, Code.SESSION_CLOSED, Code.LICENSE_INVALID})
OwnerKey = Annotated[Path | None, typer.Option("--key", help="the licence owner's key file, for key-bound licences")]


def init(
    state: State,
    *,
    key: Annotated[
        Path | None, typer.Option("--key", help="Root's key file, made if it isn't there; it never leaves this machine")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="a TOML file that says all of the house: docs/CLI.md")
    ] = None,
    owner_id: Annotated[str, typer.Option("--owner-id", help="Root's short name")] = "root",
    owner_name: Annotated[str, typer.Option("--owner-name", help="Root's name")] = "Root",
    passphrase: Passphrase = PROMPT,
    token: Token = None,
    data: Data = caller.DATA,
    out: Annotated[Path | None, typer.Option("--out", help="also write Root's licence to this file")] = None,
) -> None:
    """Found the canon: make Root's key if the file isn't there, sign record 0 here, keep the licence, log in. With --from, set up a whole
    house, from wherever an earlier run broke off."""
    if (key is None) == (source is None):
        raise typer.BadParameter("name Root's key file with --key, or a whole house with --from")
    if source is not None:
        _from(state, source, passphrase, token, data)
        return
    assert key is not None
    if out is not None:
        seam.free(out)
    address = _address(state, token, data)
    secret = _token(token, data)
    deployed = _deployed(data)
    is_new = not key.exists()
    opens = keys.passphrase_from(passphrase, confirm=is_new)  # once: a descriptor gives its bytes once
    if is_new:
        keys.write_key_file(key, key.stem, opens)
        seam.note(f"made {key}: keep it and its passphrase; nobody can recover them")
    root = keys.open_key_file(key, opens)

    async def work() -> tuple[str, http.Session]:
        async with http.Client(address) as client:
            done = await owner.bootstrap(
                client, root, token=secret, owner_id=owner_id, owner_name=owner_name, deployed=deployed
            )
            assert done.toml is not None
            state.kept.keep(about=profiles.About(address=address), license_toml=done.toml)
            opened = await http.persistently(lambda: client.login(done.toml or "", owner=root), give_up_s=10)
            return done.toml, opened

    toml, opened = seam.wait(work())
    state.kept.keep(session=opened)
    if out is not None:
        private_files.write_new(out, toml.encode())
    seam.show(
        state, {"genesis_hash": opened.genesis_hash, **_told(opened)}, f"genesis {opened.genesis_hash}\n{_line(opened)}"
    )


def _from(state: State, source: Path, passphrase: str, token: Path | None, data: Path) -> None:
    """A house from a file; what is told on the way goes to stderr, a line a thing."""
    asked = blueprint.read(source)
    address = _address(state, token, data)
    deployed = _deployed(data)
    base = source.absolute().parent

    async def work() -> tuple[building.Builder, http.Session]:
        async with http.Client(address) as client:
            secrets = building.Secrets(base, passphrase)
            builder = building.Builder(client, asked, base, secrets, seam.note)
            return builder, await builder.run(lambda: _token(token, data), deployed)

    try:
        builder, opened = seam.wait(work())
    except ValueError as error:
        raise Refusal(str(error)) from error
    state.kept.keep(about=profiles.About(address=address), license_toml=builder.toml, session=opened)
    told = {"genesis_hash": opened.genesis_hash, "done": builder.done, **_told(opened)}
    text = f"{len(builder.done)} things done" if builder.done else "nothing to do: the house is as the file says"
    seam.show(state, told, f"genesis {opened.genesis_hash}\n{text}")


def login(
    state: State,
    *,
    license: License = None,  # noqa: A002 - the option's name
    key: OwnerKey = None,
    passphrase: Passphrase = PROMPT,
    may: May = None,
    data: Annotated[Path | None, typer.Option("--data", help="take the address from this data folder")] = None,
) -> None:
    """Open a session with a licence, and keep both in the profile."""
    toml = seam.text(license) if license is not None else state.kept.license_toml
    if toml is None:
        raise Refusal("the profile keeps no licence", "Name one with --license FILE.")
    try:
        bound = licence.parse(toml).license.owner.key
    except ValueError as error:
        raise Refusal(f"not a licence: {error}") from error
    if bound is not None and key is None:
        raise Refusal("this licence is bound to its owner's key", "Name the key file with --key FILE.")
    address = caller.address_of(state, data)
    signer = caller.maybe_signer(key, passphrase)

    async def work() -> http.Session:
        async with http.Client(address) as client:
            return await client.login(toml, owner=signer, may=may or ())

    try:
        opened = seam.wait(work())
    except ValueError as error:
        raise Refusal(str(error)) from error
    state.kept.keep(about=profiles.About(address=address), license_toml=toml, session=opened)
    seam.show(state, _told(opened), _line(opened))


def logout(state: State) -> None:
    """Close the session at the house and forget its key here."""
    opened = state.kept.session(http.Session)

    async def work() -> None:
        async with caller.calling(state) as client:
            try:
                await client.logout()
            except Refused as refused:
                if refused.code not in OVER:
                    raise

    if opened is not None:
        if opened.not_after_ms > time.time_ns() // 1_000_000:
            seam.wait(work())
        state.kept.forget_session()
    seam.show(state, {"closed": opened is not None}, "closed" if opened else "no session was open")


def whoami(state: State) -> None:
    """The open session, as the house sees it."""

    async def work() -> tuple[gatekeeper.Pong, http.Session | None]:
        async with caller.calling(state) as client:
            return await client.call(gatekeeper.PING, Empty()), client.session

    pong, opened = seam.wait(work())
    assert opened is not None
    seam.show(state, {**_told(opened), "owner_id": pong.owner_id, "loa": pong.loa}, _line(opened))


def _told(opened: http.Session) -> dict[str, object]:
    """All but the secrets."""
    return {
        "owner_id": opened.owner_id,
        "owner_name": opened.owner_name,
        "loa": opened.loa,
        "session_id": opened.session_id,
        "key_bound": opened.key is not None,
        "may": list(opened.mutations),
        "ends": clock.format_ms(opened.not_after_ms),
    }


def _line(opened: http.Session) -> str:
    kind = "key-bound" if opened.key else "bearer"
    return f"{opened.owner_id} ({opened.owner_name}), {opened.loa}, {kind} session until {clock.format_ms(opened.not_after_ms)}"


def _address(state: State, token: Path | None, data: Path) -> str:
    """Where the house is. The token of a data folder goes to the house that runs on it, or where somebody says; never where the profile
    last was."""
    said = token is not None or state.address is not None or "SIGIL_ADDRESS" in os.environ
    if not said and folder.running(data) is None and (data / "bootstrap.token").exists():
        raise NoHouse(f"nothing runs on {data.absolute()}", "Start it with sigil up, or name the house with --address.")
    return caller.address_of(state, data)


def _token(given: Path | None, data: Path) -> str:
    path = given or folder.DataFolder(data).bootstrap_token_file
    try:
        text = private_files.read(path, 256)
    except FileNotFoundError:
        raise Refusal(
            f"no bootstrap token at {path}", "Name the file with --token FILE or the folder with --data DIR."
        ) from None
    return (text or b"").decode("ascii", "replace").strip()


def _deployed(data: Path) -> settings.DeploymentFile | None:
    """What the operator's side says of the deployment, to hold the draft against; None on another machine."""
    path = data / "deployment.json"
    try:
        return canonical.typed(canonical.parse(path.read_bytes()), settings.DeploymentFile)
    except FileNotFoundError:
        seam.note("no deployment.json here: the services' keys in record 0 are taken on trust")
        return None
    except canonical.NotCanonical as error:
        raise Refusal(f"{path}: {error}", "Restore it from a backup; it is never edited by hand.") from error


def register(app: typer.Typer) -> None:
    """The verbs of one's own session."""
    seam.verb(app, "init")(init)
    seam.verb(app, "login")(login)
    seam.verb(app, "logout")(logout)
    seam.verb(app, "whoami")(whoami)
