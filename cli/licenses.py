"""`sigil license`: who may do what, until when. A licence that the log never issued is void, so there is no offline minting."""

from pathlib import Path
from typing import Annotated

import typer

from cli import caller, owner, seam
from cli.blueprint import moment
from cli.refusal import Refusal
from cli.seam import PROMPT, MaybeKey, Passphrase, State
from sigilcore import ids
from sigilcore.access import Loa
from sigilcore.contracts import license as licensing
from sigilrun import keys, private_files

Level = Annotated[Loa, typer.Option("--loa", help="mentor, operator, observer or guest")]
Scope = Annotated[
    list[str] | None,
    typer.Option("--scope", help="a command or family such as memory/*; repeat it; by default all"),
]


def create(
    state: State,
    *,
    owner_id: Annotated[str, typer.Option("--owner-id")],
    owner_name: Annotated[str, typer.Option("--owner-name")],
    loa: Level,
    expires_at: Annotated[str, typer.Option("--expires-at", help="2030-01-01T00:00:00.000Z, or a day")],
    out: Annotated[Path, typer.Option("--out", help="where the licence goes; it is never overwritten")],
    owner_key: Annotated[
        str | None,
        typer.Option("--owner-key", help="the licensee's public key, hex or their key file; binds the licence"),
    ] = None,
    scope: Scope = None,
    key: MaybeKey = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Issue a licence (Root). A mentor's needs Root's own signature, made here over the table that was asked for."""
    seam.free(out)
    asked = licensing.CreateLicense(
        owner_id=owner_id,
        owner_name=owner_name,
        loa=loa,
        expires_at=moment(expires_at),
        owner_key=public_hex(owner_key),
        scope=tuple(scope) if scope else None,
        id=ids.new(),
    )
    root = caller.maybe_signer(key, passphrase)

    async def work() -> licensing.LicenseCreated:
        async with caller.calling(state, owner=root) as client:
            return await owner.create_license(client, asked, root)

    created = seam.wait(work())
    _keep(out, created)
    note = _bearer(created.bearer)
    seam.show(state, created, f"{created.license_id} issued at seq {created.seq}, written to {out}{note}")


def renew(
    state: State,
    license_id: str,
    *,
    expires_at: Annotated[str, typer.Option("--expires-at", help="the new, later end")],
    out: Annotated[Path, typer.Option("--out", help="where the new licence goes; it is never overwritten")],
    key: MaybeKey = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Issue a licence anew with a later end (Root); owner, level, scope and key stay. The old one lives to its own end: revoke it if it
    mustn't."""
    seam.free(out)
    asked = licensing.RenewLicense(license_id=license_id, expires_at=moment(expires_at), id=ids.new())
    root = caller.maybe_signer(key, passphrase)

    async def work() -> licensing.LicenseCreated:
        async with caller.calling(state, owner=root) as client:
            return await owner.renew_license(client, asked, root)

    created = seam.wait(work())
    _keep(out, created)
    seam.show(
        state,
        created,
        f"{created.license_id} renews {license_id}, written to {out}{_bearer(created.bearer)}\n{license_id} lives to its own end",
    )


def reissue(
    state: State,
    *,
    file: Path,
    out: Annotated[Path, typer.Option("--out", help="where the licence goes; it is never overwritten")],
) -> None:
    """Have a valid licence sealed afresh by the license service's key of now; the old document counts as before."""
    seam.free(out)
    asked = licensing.ReissueLicense(license=seam.text(file))

    sealed = caller.ask(state, licensing.REISSUE, asked)
    private_files.write_new(out, sealed.toml.encode())
    seam.show(
        state, sealed, f"{sealed.license_id} sealed by {sealed.seal_key_id}, written to {out}{_bearer(sealed.bearer)}"
    )


def _keep(out: Path, created: licensing.LicenseCreated) -> None:
    """Write a new licence. The house keeps no seal, so one that can't be written is lost, and still counts."""
    try:
        private_files.write_new(out, created.toml.encode())
    except OSError as error:
        raise Refusal(
            f"{created.license_id} was issued at seq {created.seq}, and {out} can't be written: {error.strerror}",
            f"End it with sigil license revoke {created.license_id}; then issue another.",
        ) from error


def _bearer(bearer: bool) -> str:
    return "\na bearer licence: whoever holds the file is its owner" if bearer else ""


def validate(state: State, file: Path) -> None:
    """Ask the log whether a licence counts here and now; exit 1 if it doesn't."""
    asked = licensing.ValidateLicense(license=seam.text(file))

    async def work() -> licensing.LicenseValidation:
        async with caller.calling(state, as_stranger=True) as client:
            return await client.call(licensing.VALIDATE, asked)

    found = seam.wait(work())
    seam.show(state, found)
    if not found.valid:
        raise typer.Exit(seam.EXIT_REFUSED)


def revoke(
    state: State,
    license_id: str,
    reason: Annotated[str, typer.Option("--reason")] = "",
    key: MaybeKey = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """End a licence (Root); felt at every gate within a second."""
    root = caller.maybe_signer(key, passphrase)

    async def work() -> licensing.LicenseRevoked:
        async with caller.calling(state, owner=root) as client:
            asked = licensing.RevokeLicense(license_id=license_id, reason=reason, id=ids.new())
            return await client.call(licensing.REVOKE, asked)

    seam.show(state, seam.wait(work()))


def show_list(
    state: State,
    limit: seam.Limit = 50,
    cursor: seam.Cursor = None,
    only: Annotated[
        licensing.State | None, typer.Option("--state", help="valid, 'not yet valid', expired or revoked")
    ] = None,
) -> None:
    """Licences in order of issue (mentor)."""
    page = caller.ask(state, licensing.LIST, licensing.ListLicenses(limit=limit, cursor=cursor, state=only))
    columns = ("license_id", "owner_id", "loa", "state", "expires_at", "bearer", "issued_seq", "revoked_seq")
    seam.show(state, page, seam.page(page.items, page.cursor, *columns))


def public_hex(given: str | None) -> str | None:
    """A public key as hex, from hex or from a key file."""
    if given is None or (len(given) == 64 and set(given) <= set("0123456789abcdef")):
        return given
    info = keys.read_public(Path(given))
    if info.public_key is None:
        raise Refusal(f"{given} holds no signing key")
    return info.public_key.hex()


def register(app: typer.Typer) -> None:
    """The noun `license`."""
    noun = seam.family(app, "license", "Licences: who may do what, until when.")
    seam.verb(noun, "create")(create)
    seam.verb(noun, "renew")(renew)
    seam.verb(noun, "reissue")(reissue)
    seam.verb(noun, "validate")(validate)
    seam.verb(noun, "revoke")(revoke)
    seam.verb(noun, "list")(show_list)
