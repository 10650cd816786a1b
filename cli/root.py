"""`sigil root`: Root is replaced, and its successor's licence.

By the old Root and the quorum: `root replace` proposes it, the new key proves itself and the witnesses agree as for any proposal. Without
Root, lost or hostile, by all witnesses: the new Root writes a file with `root draft`, every witness adds `keys attest`, and the operator
brings it in with `keys carry`. Either way the new Root then fetches `root license`; the old key and its licence have ended.
"""

from pathlib import Path
from typing import Annotated

import typer

from cli import caller, carried, governed, licenses, owner, seam
from cli.seam import PROMPT, Data, Key, Passphrase, State
from sigilcore import clock, licence, record
from sigilcore.contracts import license as licensing
from sigilcore.contracts import quorum
from sigilrun import http, private_files

OwnerId = Annotated[str, typer.Option("--owner-id", help="the new Root's short name")]
OwnerName = Annotated[str, typer.Option("--owner-name")]


def replace(
    state: State,
    *,
    owner_id: OwnerId,
    owner_name: OwnerName,
    root_key: Annotated[str, typer.Option("--root-key", help="the new Root's public key, hex or key file")],
    key: Key,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Propose another Root, or another key of your own (Root)."""
    root, public = caller.signer(key, passphrase), licenses.public_hex(root_key)
    asked = {"owner_id": owner_id, "name": owner_name, "key": public}

    async def work() -> quorum.Proposed:
        async with caller.calling(state, owner=root) as client:
            return await owner.propose(client, root, "root_key", asked)

    done = seam.wait(work())
    proof = f"the new key proves itself with proposal sign --as {owner_id}, or proposal attest"
    seam.show(state, done, f"proposal {done.proposal_id} needs {done.need} voices; {proof}")


def draft(
    state: State,
    *,
    owner_id: OwnerId,
    owner_name: OwnerName,
    out: Annotated[Path, typer.Option("--out", help="where the record goes")],
    key: Key,
    data: Data = Path("data"),
    passphrase: Passphrase = PROMPT,
) -> None:
    """Write the record that makes you Root without the old one, signed by your key; every witness must add its voice."""
    signer = caller.signer(key, passphrase)
    asked = {"owner_id": owner_id, "name": owner_name, "key": signer.public_key.hex()}

    async def work() -> tuple[record.SignedRecord, int]:
        found = await carried.folded(data)
        try:
            now_ms = clock.SystemClock().now_ms()
            need = len(found.state.active_witnesses())
            return carried.drafted(found.state, "root_key", asked, signer, now_ms), need
        finally:
            await found.bus.close()

    signed, need = seam.wait(work())
    carried.write(out, signed)
    told = {"file": str(out), "need": need}
    seam.show(
        state, told, f"written to {out}; all {need} witnesses add: sigil keys attest {out}; then sigil keys carry"
    )


def fetch(
    state: State,
    *,
    out: Annotated[Path, typer.Option("--out", help="where the licence goes; it is never overwritten")],
    key: Key,
    passphrase: Passphrase = PROMPT,
) -> None:
    """The licence of the Root that the log names now, for whoever holds its key."""
    seam.free(out)
    signer = caller.signer(key, passphrase)

    async def work() -> licensing.Bootstrapped:
        async with caller.calling(state, as_stranger=True) as client:
            return await succeeded(client, signer.public_key.hex())

    done = seam.wait(work())
    assert done.toml is not None, "it was read"
    private_files.write_new(out, done.toml.encode())
    seam.show(state, done, f"{done.license_id} written to {out}; open a session with: sigil login --license {out}")


async def succeeded(client: http.Client, root_key: str) -> licensing.Bootstrapped:
    """Root's licence, held against the key that asked."""
    done = await client.call(licensing.ROOT, licensing.RootLicense(root_key=root_key))
    try:
        bound = licence.parse(done.toml or "").license
    except ValueError as error:
        raise governed.Unverified(f"Root's licence can't be read: {error}") from error
    if bound.owner.key != root_key:
        raise governed.Unverified("the licence is bound to another key")
    return done


def register(app: typer.Typer) -> None:
    """The noun `root`."""
    noun = seam.family(app, "root", "Root, and who takes its place.")
    seam.verb(noun, "replace")(replace)
    seam.verb(noun, "draft")(draft)
    seam.verb(noun, "license")(fetch)
