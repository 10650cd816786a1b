"""`sigil keys`: key files of one's own, made here to stay here; and, in `house_keys`, the house's. A passphrase is never an argument."""

from pathlib import Path
from typing import Annotated

import typer

from cli import house_keys, seam
from cli.seam import PROMPT, Passphrase, State
from sigilrun import keys

Name = Annotated[str | None, typer.Option("--name", help="the key's name inside the file; by default the file's")]
Out = Annotated[Path, typer.Option("--out", help="the file to make; it is never overwritten")]


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


def register(app: typer.Typer) -> None:
    """The noun `keys`."""
    noun = seam.family(app, "keys", "Key files of your own, and the keys of the house.")
    seam.verb(noun, "new")(new)
    seam.verb(noun, "public")(public)
    house_keys.register(noun)
