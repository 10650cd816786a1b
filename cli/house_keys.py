"""`sigil keys` for the house's own keys: what the log says of them, their rotation by the quorum, and the end of one that was stolen.

A rotation begins where the keystore is: the new key is made beside the old one, `sigil proposal` gathers the voices, and the service
goes on with the new key by itself once the record is committed. A revocation is Root's alone and acts at once. Where it silences the
gatekeeper or the quorum service, nobody can propose any more: then the same record goes by hand, `--out`, `attest`, `carry`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cli import caller, carried, governed, owner, seam
from cli.refusal import Refusal
from cli.seam import PROMPT, Data, Key, MaybeKey, Passphrase, State
from sigilcore import clock, governance, ids, note, record, signing
from sigilcore.contracts import common, house, quorum
from sigilcore.contracts import keys as contract
from sigilrun import keys

KeyId = Annotated[str, typer.Argument(help="a key's id, as sigil keys log shows it")]
Service = Annotated[str, typer.Argument(help="the service whose key is rotated")]
GATE = "gatekeeper"


def log(
    state: State,
    limit: seam.Limit = 50,
    cursor: seam.Cursor = None,
    active: Annotated[
        bool | None, typer.Option("--active/--ended", help="only those that speak now, or only those that ended")
    ] = None,
) -> None:
    """Every key that the log ever knew: its role, and from where to where it speaks (mentor)."""
    page = caller.ask(state, contract.LIST, contract.ListKeys(limit=limit, cursor=cursor, active=active))
    columns = ("key_id", "role", "name", "instance", "since_seq", "until_seq")
    seam.show(state, page, seam.page(page.items, page.cursor, *columns))


def revoke(
    state: State,
    key_id: KeyId,
    reason: Annotated[str, typer.Option("--reason")] = "",
    key: MaybeKey = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """End a service's or an instance's key, from here on (Root). A service is mute until a rotation gives it another key."""
    root = caller.maybe_signer(key, passphrase)

    seam.show(
        state,
        caller.ask(state, contract.REVOKE, contract.RevokeKey(key_id=key_id, reason=reason, id=ids.new()), owner=root),
    )


def rotate_service(
    state: State,
    service: Service,
    *,
    key: Key,
    data: Data = Path("data"),
    passphrase: Passphrase = PROMPT,
    out: Annotated[
        Path | None, typer.Option("--out", help="write the record, to be carried by hand, instead of proposing it")
    ] = None,
) -> None:
    """Make a service a new key in the house's keystore, and propose it."""
    if service not in house.SERVICE_KEYS:
        raise Refusal(f"{service} has no key", f"These have: {', '.join(house.SERVICE_KEYS)}.")

    def asked(found: governance.Governance) -> dict[str, Any]:
        return {"service": service, "key": successor(data, service, found).hex()}

    if out is not None:
        _write(state, data, caller.signer(key, passphrase), asked, out)
        return
    proposed = _propose(state, key, passphrase, "service_key", asked)
    warning = "\nonce it is committed, every session must be opened again" if service == GATE else ""
    _show(state, proposed, warning)


def rotate_log(state: State, *, key: Key, data: Data = Path("data"), passphrase: Passphrase = PROMPT) -> None:
    """Make the log a new key in the house's keystore, and propose it; then tell whoever cosigns the log's checkpoints."""

    def asked(found: governance.Governance) -> dict[str, Any]:
        return {"vkey": log_successor(data, found)}

    _show(state, _propose(state, key, passphrase, "log_key", asked), "\ncosigners need the new key in their policy")


def _write(
    state: State, data: Path, root: signing.Signer, asked: Callable[[governance.Governance], dict[str, Any]], out: Path
) -> None:
    async def work() -> record.SignedRecord:
        found = await carried.folded(data)
        try:
            now_ms = clock.SystemClock().now_ms()
            return carried.drafted(found.state, "service_key", asked(found.state), root, now_ms)
        finally:
            await found.bus.close()

    carried.write(out, seam.wait(work()))
    seam.show(state, {"file": str(out)}, f"signed and written to {out}; each witness adds: sigil keys attest {out}")


def attest(
    state: State,
    file: Path,
    *,
    key: Key,
    witness_id: Annotated[str, typer.Option("--as", help="the witness whose voice this is")],
    passphrase: Passphrase = PROMPT,
) -> None:
    """Add a witness's voice to a record that is carried by hand. Look at it before."""
    signed = carried.read(file)
    carried.write(file, carried.voiced(signed, witness_id, caller.signer(key, passphrase)))
    checked = record.check(signed)
    shown = {"kind": checked.core.kind, "hash": checked.header.hash, "payload": msgspec.to_builtins(checked.payload)}
    seam.show(state, shown)


def carry(state: State, file: Path, data: Data = Path("data")) -> None:
    """Append a record that has its voices, as the operator of the house."""
    signed = carried.read(file)

    async def work() -> common.Placed:
        found = await carried.folded(data)
        try:
            return await carried.carry(found, signed)
        finally:
            await found.bus.close()

    seam.show(state, seam.wait(work()))


def successor(data: Path, role: str, found: governance.Governance) -> bytes:
    """The public key for a role's rotation, made in the house's keystore if it isn't there yet."""
    from sigilrun.house import Layout  # noqa: PLC0415 - the stack's libraries are loaded by the verbs that need them

    layout = Layout(data)
    store = keys.Keystore.open(layout.keystore, keys.passphrase_from(f"file:{layout.passphrase}"))
    try:
        return store.successor(role, lambda public: found.key(signing.key_id(public)) is not None)
    finally:
        store.close()


def log_successor(data: Path, found: governance.Governance) -> str:
    """The same for the log's key, as vkey text."""
    origin = note.VerifierKey.parse(found.log_key).name
    return note.VerifierKey.of(origin, note.ED25519, successor(data, house.LOG_KEY, found)).format()


def _propose(
    state: State, key: Path, passphrase: str, kind: str, asked: Callable[[governance.Governance], dict[str, Any]]
) -> quorum.Proposed:
    root = caller.signer(key, passphrase)

    async def work() -> quorum.Proposed:
        async with caller.calling(state, owner=root) as client:
            return await owner.propose(client, root, kind, asked(await governed.state(client)))

    return seam.wait(work())


def _show(state: State, proposed: quorum.Proposed, note_text: str) -> None:
    seam.show(state, proposed, f"{proposed.proposal_id} proposed, {proposed.need} voices needed{note_text}")


def register(noun: typer.Typer) -> None:
    """Verbs of the noun `keys`."""
    seam.verb(noun, "log")(log)
    seam.verb(noun, "revoke")(revoke)
    seam.verb(noun, "rotate-service")(rotate_service)
    seam.verb(noun, "rotate-log")(rotate_log)
    seam.verb(noun, "attest")(attest)
    seam.verb(noun, "carry")(carry)
