"""`sigil keys`: key files of one's own, made here to stay here; and, in `house_keys`, the house's. A passphrase is never an argument.

What `sign` makes is for people: a DSSE envelope of a type that no door of the house takes.
"""

import base64
import hashlib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer

from cli import caller, house_keys, licenses, seam
from cli.seam import PROMPT, Key, Passphrase, State
from sigilcore import detached, envelope, signing
from sigilrun import key_format, keys, private_files

MAX_ENVELOPE_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 1 << 20
# DER of a SubjectPublicKeyInfo up to the raw key: RFC 8410, section 4.
_SPKI: Final = bytes.fromhex("302a300506032b6570032100")

Name = Annotated[str | None, typer.Option("--name", help="the key's name inside the file; by default the file's")]
Out = Annotated[Path, typer.Option("--out", help="the file to make; it is never overwritten")]
NewPassphrase = Annotated[
    str, typer.Option("--new-passphrase", help="where the new passphrase comes from: file:PATH, fd:N or prompt")
]
Publics = Annotated[
    list[str], typer.Option("--public", help="who must have signed: a public key as hex, or a key file; repeat it")
]
Format = Annotated[Literal["hex", "pem", "json"], typer.Option("--format", help="hex, pem (RFC 8410) or json")]


def new(state: State, out: Out, passphrase: Passphrase = PROMPT, name: Name = None) -> None:
    """Make a key file, encrypted under a passphrase (Argon2id)."""
    public = keys.write_key_file(out, name or out.stem, keys.passphrase_from(passphrase, confirm=True))
    info = keys.read_public(out)
    seam.show(state, {"file": str(out), "public_key": public.hex(), "key_id": info.key_id}, public.hex())


def public(state: State, file: Path) -> None:
    """The public key that a key file names, without its passphrase and so without proof."""
    info = keys.read_public(file)
    shown = None if info.public_key is None else info.public_key.hex()
    seam.show(state, {"name": info.name, "public_key": shown, "key_id": info.key_id}, shown or "(a symmetric key)")


def show_list(
    state: State,
    folder: Annotated[Path, typer.Argument(help="a folder; its own files only")] = Path(),
) -> None:
    """The key files in a folder; exit 1 if one of them can't be used."""
    rows = [_row(path) for path in sorted(folder.iterdir()) if _is_key_file(path)]
    seam.show(state, {"items": rows}, seam.table(rows, "file", "name", "key_id", "public_key", "fault"))
    if any(row["fault"] for row in rows):
        raise typer.Exit(seam.EXIT_REFUSED)


def _is_key_file(path: Path) -> bool:
    """Named as one, or begun as one; asked without opening what isn't a regular file."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.suffix == ".key":
        return True
    try:
        with path.open("rb") as file:
            return key_format.KEY_FORMAT.encode() in file.read(key_format.MAX_FILE_BYTES)
    except OSError:
        return False


def _row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"file": str(path), "name": None, "key_id": None, "public_key": None, "fault": None}
    try:
        info = keys.read_public(path)
    except keys.KeystoreError as fault:
        return {**row, "fault": type(fault).__name__}
    shown = None if info.public_key is None else info.public_key.hex()
    return {**row, "name": info.name, "key_id": info.key_id, "public_key": shown}


def rotate(
    state: State,
    *,
    file: Path,
    out: Out,
    statement: Annotated[
        Path | None, typer.Option("--statement", help="where the succession goes: both keys' signatures")
    ] = None,
    passphrase: Passphrase = PROMPT,
    new_passphrase: Annotated[
        str | None, typer.Option("--new-passphrase", help="by default the same passphrase as the old key's")
    ] = None,
) -> None:
    """Make a new key to follow an old one, and a statement by both that says so. Who trusts the old key enrols the new one."""
    old_secret = keys.passphrase_from(passphrase)
    old = keys.open_key_file(file, old_secret)
    secret = old_secret if new_passphrase is None else keys.passphrase_from(new_passphrase, confirm=True)
    said = statement or out.with_name(f"{out.name}.succession.json")
    seam.free(said)
    keys.write_key_file(out, out.stem, secret)
    fresh = keys.open_key_file(out, secret)
    private_files.write_new(said, detached.sign_succession(old, fresh) + b"\n")
    told = {"file": str(out), "public_key": fresh.public_key.hex(), "key_id": fresh.key_id, "statement": str(said)}
    seam.show(
        state,
        told,
        f"{fresh.public_key.hex()}\n{said} says that it follows {old.key_id}; the old key stays until its roles have moved:\n"
        "a witness's by sigil witness rotate, a licence's by sigil license create with the new key and revoke of the old",
    )


def passphrase(
    state: State, *, file: Path, out: Out, new_passphrase: NewPassphrase, passphrase: Passphrase = PROMPT
) -> None:
    """The same key in a new file under another passphrase. The old file stays: destroy it yourself, it still opens."""
    public = keys.rewrite_key_file(
        file, keys.passphrase_from(passphrase), out, keys.passphrase_from(new_passphrase, confirm=True)
    )
    seam.show(state, {"file": str(out), "public_key": public.hex()}, f"{out}; {file} still opens by the old passphrase")


def export(
    state: State,
    *,
    file: Path,
    format: Format = "hex",  # noqa: A002 - the option's name
    prove: Annotated[bool, typer.Option("--prove", help="open the key, so that what is exported is proven")] = False,
    passphrase: Passphrase = PROMPT,
    out: Annotated[Path | None, typer.Option("--out", help="write it to this new file")] = None,
) -> None:
    """The public half of a key file, for others. Nothing exports the private half."""
    info = keys.read_public(file)
    if info.public_key is None:
        raise keys.WrongKeyKind(f"{file} is no signing key.")
    if prove:
        caller.signer(file, passphrase)
    told = {"name": info.name, "public_key": info.public_key.hex(), "key_id": info.key_id, "proven": prove}
    text = {"hex": info.public_key.hex(), "pem": _pem(info.public_key), "json": seam.as_json(told)}[format]
    if out is not None:
        seam.free(out)
        out.write_text(text + "\n")
    seam.show(state, told, str(out) if out is not None else text)


def _pem(public: bytes) -> str:
    body = base64.b64encode(_SPKI + public).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----"


def sign(
    state: State,
    *,
    file: Path,
    key: Key,
    out: Annotated[Path | None, typer.Option("--out", help="by default FILE.sig.json; it is never overwritten")] = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Sign a file: a DSSE envelope beside it, with its length and SHA-256. It admits nothing to any house."""
    beside = out or file.with_name(f"{file.name}.sig.json")
    seam.free(beside)
    signer = caller.signer(key, passphrase)
    statement = _measured(file)
    beside.write_bytes(detached.sign_file(statement, [signer]) + b"\n")
    told = {"file": str(file), "signature": str(beside), "key_id": signer.key_id, "sha256": statement.sha256}
    seam.show(state, told, str(beside))


def verify(
    state: State,
    *,
    file: Path,
    public: Publics,
    signature: Annotated[Path | None, typer.Option("--signature", help="by default FILE.sig.json")] = None,
) -> None:
    """Check a file against its signature by the keys that you name; exit 1 if it doesn't hold, 2 if it can't be read."""
    beside = signature or file.with_name(f"{file.name}.sig.json")
    wanted = [_public(given) for given in public]
    measured = _measured(file)
    try:
        data = _short(beside).removesuffix(b"\n")
        reason = detached.verify_file(data, wanted, size=measured.size, sha256=measured.sha256)
    except envelope.BadToken as error:
        _unreadable(state, beside, error)
    shown = [signing.key_id(one) for one in wanted]
    told = {"verified": reason is None, "reason": reason, "by": shown, "sha256": measured.sha256}
    seam.show(state, told, "verified" if reason is None else f"does not verify: {reason}")
    if reason is not None:
        raise typer.Exit(seam.EXIT_REFUSED)


def succession(
    state: State,
    *,
    statement: Path,
    public: Annotated[str, typer.Option("--public", help="the old key that you trust, hex or key file")],
) -> None:
    """Check that a key which you trust named its successor; exit 1 if it didn't, 2 if the statement can't be read."""
    try:
        found = detached.succession(_short(statement).removesuffix(b"\n"))
    except envelope.BadToken as error:
        if error.reason != "signature":
            _unreadable(state, statement, error)
        found = None
    held = found is not None and found.old == _public(public).hex()
    seam.show(
        state,
        {"verified": held, "new": found.new if found and held else None},
        found.new if found and held else "does not verify",
    )
    if not held:
        raise typer.Exit(seam.EXIT_REFUSED)


def _unreadable(state: State, path: Path, error: envelope.BadToken) -> NoReturn:
    if state.as_json:
        seam.show(state, {"verified": False, "unreadable": error.reason})
    seam.note(f"{path} is no such envelope: {error.reason}")
    raise typer.Exit(seam.EXIT_USAGE) from error


def _public(given: str) -> bytes:
    found = licenses.public_hex(given)
    assert found is not None, "something was given"
    return bytes.fromhex(found)


def _short(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_ENVELOPE_BYTES)


def _measured(path: Path) -> detached.FileStatement:
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hashed.update(chunk)
            size += len(chunk)
    return detached.FileStatement(size=size, sha256=hashed.hexdigest())


def register(app: typer.Typer) -> None:
    """The noun `keys`."""
    noun = seam.family(app, "keys", "Key files of your own, and the keys of the house.")
    seam.verb(noun, "new")(new)
    seam.verb(noun, "list")(show_list)
    seam.verb(noun, "public")(public)
    seam.verb(noun, "export")(export)
    seam.verb(noun, "rotate")(rotate)
    seam.verb(noun, "passphrase")(passphrase)
    seam.verb(noun, "succession")(succession)
    seam.verb(noun, "sign")(sign)
    seam.verb(noun, "verify")(verify)
    house_keys.register(noun)
