"""`sigil witness`: the registry of voices. Every change is a proposal, drafted by the house, compared and signed by Root here."""

from typing import Annotated

import typer

from cli import caller, licenses, owner, seam, witness_serve
from cli.seam import PROMPT, Key, Passphrase, State
from sigilcore import signing
from sigilcore.contracts import license as licensing
from sigilcore.contracts import quorum
from sigilcore.contracts.common import Empty
from sigilrun import http

WitnessKey = Annotated[str, typer.Option("--witness-key", help="the witness's public key, hex or key file")]
Name = Annotated[
    str | None, typer.Option("--name", help="by default the name on the mentor licence, or the present one")
]


def add(
    state: State,
    *,
    witness_id: str,
    key: Key,
    witness_key: WitnessKey,
    name: Name = None,
    persona: Annotated[
        bool, typer.Option("--persona", help="a model speaks for it; the policy caps such voices")
    ] = False,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Propose a mentor as a witness."""
    root, public = caller.signer(key, passphrase), licenses.public_hex(witness_key)
    _propose(state, root, action="add", witness_id=witness_id, witness_key=public, name=name, persona=persona)


def rotate(
    state: State,
    *,
    witness_id: str,
    key: Key,
    witness_key: WitnessKey,
    name: Name = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Propose a witness's new key."""
    root, public = caller.signer(key, passphrase), licenses.public_hex(witness_key)
    _propose(state, root, action="rotate", witness_id=witness_id, witness_key=public, name=name)


def revoke(state: State, *, witness_id: str, key: Key, passphrase: Passphrase = PROMPT) -> None:
    """Propose a witness's end."""
    root = caller.signer(key, passphrase)
    _propose(state, root, action="revoke", witness_id=witness_id, witness_key=None, name=None)


def _propose(
    state: State,
    root: signing.Signer,
    *,
    action: str,
    witness_id: str,
    witness_key: str | None,
    name: str | None,
    persona: bool = False,
) -> None:
    async def work() -> quorum.DraftOrProposal:
        async with caller.calling(state, owner=root) as client:
            change, licence_id = await complete(client, action, witness_id, witness_key, name, persona=persona)
            return await owner.propose_witness(client, root, action, change, licence_id)

    done = seam.wait(work())
    text = f"proposal {done.proposal_id} needs {done.need} voices; the joining key proves itself with proposal attest"
    seam.show(state, done, text)


async def complete(
    client: http.Client,
    action: str,
    witness_id: str,
    witness_key: str | None,
    name: str | None,
    *,
    persona: bool = False,
) -> tuple[quorum.WitnessChange, str]:
    """The whole change, and the mentor licence behind it, filled from what the house lists; the comparison is made with this."""
    listed = await client.call(quorum.WITNESS_LIST, Empty())
    current = next((item for item in listed.items if item.witness_id == witness_id and item.until_seq is None), None)
    licence_id, licensed_name = "", None
    cursor: str | None = None
    found: list[licensing.LicenseView] = []
    while True:
        page = await client.call(licensing.LIST, licensing.ListLicenses(cursor=cursor, limit=500))
        found += [item for item in page.items if item.owner_id == witness_id and item.loa == "mentor"]
        if (cursor := page.cursor) is None:
            break
    valid = [item for item in found if item.revoked_seq is None]
    if valid:
        newest = max(valid, key=lambda item: item.issued_seq)
        licence_id, licensed_name = newest.license_id, newest.owner_name
    present = None if current is None else current.name
    chosen = name or (licensed_name if action == "add" else present) or "-"
    kept = witness_key or (None if current is None else current.key)
    stays = persona if current is None else current.persona
    return quorum.WitnessChange(witness_id=witness_id, name=chosen, key=kept, persona=stays), licence_id


def show_list(state: State) -> None:
    """The registry with its history."""
    listed = caller.ask(state, quorum.WITNESS_LIST, Empty())
    seal = "not sealed" if listed.quorum is None else f"sealed: {listed.quorum} of {listed.active}"
    rows = seam.table(listed.items, "witness_id", "name", "key", "persona", "since_seq", "until_seq")
    seam.show(state, listed, f"{rows}\n{listed.active} active, {seal}")


def register(app: typer.Typer) -> None:
    """The noun `witness`."""
    noun = seam.family(app, "witness", "The registry of witnesses, and a witness of one's own.")
    seam.verb(noun, "list")(show_list)
    seam.verb(noun, "add")(add)
    seam.verb(noun, "rotate")(rotate)
    seam.verb(noun, "revoke")(revoke)
    witness_serve.add_to(noun)
