"""`sigil proposal` and `sigil seal`: how the system's own rules change.

What is shown and signed is read on this side: the record rebuilt and its hashes recomputed, Root's signature verified with the key of the
genesis that the caller's licence names, the difference computed from verified records. A witness's key signs here and stays here.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cli import caller, governed, owner, packet, seam
from cli.refusal import Refusal
from cli.seam import PROMPT, Key, MaybeKey, Passphrase, State
from sigilcore import canonical, clock, ids, licence, note
from sigilcore.contracts import quorum
from sigilcore.contracts.license import Draft
from sigilcore.records import system, user

Witness = Annotated[str, typer.Option("--as", help="the witness whose voice this is")]
Yes = Annotated[bool, typer.Option("--yes", help="don't ask, even on a terminal")]
Payload = Annotated[str, typer.Option("--payload", help="the change as JSON, or a file that holds it")]


class Drafted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A draft on its way to Root's key: what was asked, and what the house drafted."""

    kind: str
    asked: dict[str, Any]
    draft: Draft


def draft(
    state: State,
    *,
    kind: str,
    payload: Payload,
    out: Annotated[Path, typer.Option("--out", help="where the draft goes")],
) -> None:
    """Have a change drafted on the current head, to be signed with proposal propose."""
    asked = _json(payload)

    drafted = Drafted(
        kind=kind, asked=asked, draft=caller.ask(state, quorum.DRAFT, quorum.MakeDraft(kind=kind, payload=asked))
    )
    out.write_bytes(msgspec.json.format(msgspec.json.encode(drafted)) + b"\n")
    seam.show(state, drafted, f"drafted {kind} to {out}; sign it with: sigil proposal propose {out} --key FILE")


def propose(state: State, *, file: Path, key: Key, passphrase: Passphrase = PROMPT) -> None:
    """Compare a draft with what was asked, sign it with Root's key, and open the proposal."""
    try:
        drafted = msgspec.json.decode(file.read_bytes(), type=Drafted)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{file} is no draft: {error}") from error
    root = caller.signer(key, passphrase)

    async def work() -> quorum.Proposed:
        async with caller.calling(state, owner=root) as client:
            found = await governed.state(client)
            signed = owner.sign_draft(drafted.draft, drafted.kind, drafted.asked, found, root)
            return await client.call(quorum.PROPOSE, quorum.Propose(record=signed))

    _proposed(state, seam.wait(work()))


def seal(
    state: State,
    *,
    k: Annotated[int, typer.Option("--k", min=1, max=32, help="voices that every later change needs")],
    key: Key,
    passphrase: Passphrase = PROMPT,
    ttl_s: Annotated[int, typer.Option("--ttl-s", help="seconds that a proposal stays open")] = 86_400,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="KIND=K, a higher k for a kind; repeat it")] = None,
    cosigner: Annotated[
        list[str] | None,
        typer.Option("--cosigner", help="VKEY=URL of who cosigns checkpoints, or its VKEY alone; repeat it"),
    ] = None,
    c: Annotated[
        int | None,
        typer.Option("--c", min=0, max=32, help="cosignatures that a checkpoint needs; by default more than half"),
    ] = None,
    personas: Annotated[int, typer.Option("--personas", min=0, max=32, help="of k, at most so many personas")] = 0,
) -> None:
    """Propose the quorum policy that seals the house, or changes the quorum: draft, compare, sign, propose."""
    cosigners = [_cosigner(text) for text in cosigner or []]
    if c is None:
        c = len(cosigners) // 2 + 1 if cosigners else 0
    if c and 2 * c <= len(cosigners):
        seam.note(f"{c} of {len(cosigners)}: two histories could each find enough cosigners, all of them honest")
    overrides = _overrides(kind or [])
    payload = owner.seal_payload(k, kinds=overrides, proposal_ttl_s=ttl_s, c=c, cosigners=cosigners, personas=personas)
    root = caller.signer(key, passphrase)

    async def work() -> quorum.Proposed:
        async with caller.calling(state, owner=root) as client:
            return await owner.propose(client, root, "quorum_policy", payload)

    _proposed(state, seam.wait(work()))


def order_erasure(
    state: State,
    *,
    owner_id: Annotated[str, typer.Option("--owner", help="whose thing it is")],
    name: Annotated[str, typer.Option("--name", help="the thing's name, as its owner knows it")],
    reason: Annotated[str, typer.Option("--reason", help="why; it is in the log for ever")],
    key: Key,
    kind: Annotated[str, typer.Option("--kind", help="memory_block, document or user_value")] = "memory_block",
    passphrase: Passphrase = PROMPT,
) -> None:
    """Propose to erase somebody else's thing, all versions of it. Once it is committed, the house carries it out."""
    if kind not in user.FAMILIES:
        raise Refusal(f"no kind {kind!r} of thing", f"These there are: {', '.join(user.FAMILIES)}.")
    asked = {"owner": owner_id, "kind": kind, "key": user.key_of_slug(kind, owner_id, name), "reason": reason}
    root = caller.signer(key, passphrase)

    async def work() -> quorum.Proposed:
        async with caller.calling(state, owner=root) as client:
            return await owner.propose(client, root, "erasure_order", asked)

    _proposed(state, seam.wait(work()))


def together(state: State, *, file: Path, key: Key, passphrase: Passphrase = PROMPT) -> None:
    """Propose changes that stand or fall together, from a JSON file: a list of {kind, payload}, in the order in which they act."""
    asked = {"changes": _parsed(file.read_bytes(), str(file))}
    root = caller.signer(key, passphrase)

    async def work() -> quorum.Proposed:
        async with caller.calling(state, owner=root) as client:
            return await owner.propose(client, root, "changes", asked)

    _proposed(state, seam.wait(work()))


def show_list(state: State, limit: seam.Limit = 50, cursor: seam.Cursor = None) -> None:
    """Proposals, newest first."""
    page = caller.ask(state, quorum.PROPOSALS, quorum.ListProposals(limit=limit, cursor=cursor))
    seam.show(
        state,
        page,
        seam.page(page.items, page.cursor, "proposal_id", "kind", "state", "witnessed", "have", "need", "expires_at"),
    )


def show(
    state: State,
    proposal_id: str,
    out: Annotated[
        Path | None, typer.Option("--out", help="write it, with all that verifies it, to be signed elsewhere")
    ] = None,
) -> None:
    """One proposal, verified here, with the difference computed here."""

    async def work() -> tuple[governed.Read, list[dict[str, Any]]]:
        async with caller.calling(state) as client:
            read = await owner.read_proposal(client, proposal_id)
            return read, [] if out is None else await governed.history(client)

    read, records = seam.wait(work())
    if out is not None:
        packet.write(out, packet.made(read.view, records))
        seam.note(f"written to {out}; sign it anywhere with: sigil proposal sign {out} --as NAME --key FILE")
    seam.show(state, read.shown(), _text(read))


def sign(
    state: State,
    file: Path,
    *,
    key: Key,
    witness_id: Witness,
    license_file: Annotated[
        Path | None, typer.Option("--license", help="your licence, which names the genesis; by default the profile's")
    ] = None,
    genesis: Annotated[str | None, typer.Option("--genesis", help="the genesis hash that you pinned")] = None,
    seal_hash: Annotated[
        str | None, typer.Option("--seal", help="the hash of the first quorum_policy that you pinned")
    ] = None,
    passphrase: Passphrase = PROMPT,
    yes: Yes = False,
) -> None:
    """Verify a proposal in a file, show what it changes, and sign it: no server, no network."""
    pinned = genesis or _genesis_of(state, license_file)
    opened = packet.Opened(packet.read(file), pinned, seal_hash, clock.SystemClock().now_ms())
    record_hash = opened.checked.header.hash
    lines = [f"{opened.checked.core.kind}, record {record_hash}, Root's signature verified here"]
    lines += ["what it changes, computed here:", *(_line(line.path, line.old, line.new) for line in opened.lines)]
    seam.note("\n".join(lines))
    signer = caller.signer(key, passphrase)
    _confirm(record_hash, witness_id, yes=yes)
    packet.write(file, opened.signed(witness_id, signer))
    told = {"file": str(file), "record_hash": record_hash, "witness_id": witness_id}
    seam.show(state, told, f"signed in {file}; bring it back with: sigil proposal submit {file}")


def submit(state: State, file: Path) -> None:
    """Bring the voices in a file to the house. They count by themselves, whoever carries them."""
    held = packet.read(file)
    if not held.voices:
        raise Refusal(f"nobody has signed {file}", f"Sign it first: sigil proposal sign {file} --as NAME --key FILE")

    async def work() -> quorum.Tally:
        async with caller.calling(state, as_stranger=True) as client:
            return await owner.submit(client, held)

    tally = seam.wait(work())
    seam.show(state, tally, f"{tally.state}: {tally.have} of {tally.need}")


def rebase(state: State, *, proposal_id: str, key: Key, passphrase: Passphrase = PROMPT) -> None:
    """Propose a stale change again on the present head; nobody's voice carries over (Root)."""
    root = caller.signer(key, passphrase)

    async def work() -> quorum.Proposed:
        async with caller.calling(state, owner=root) as client:
            return await owner.rebase(client, root, proposal_id)

    _proposed(state, seam.wait(work()))


def attest(
    state: State,
    *,
    proposal_id: str,
    key: Key,
    witness_id: Witness,
    passphrase: Passphrase = PROMPT,
    yes: Yes = False,
) -> None:
    """Show what a proposal changes, then sign it with a witness's key."""
    signer = caller.signer(key, passphrase)

    async def work() -> quorum.Tally:
        async with caller.calling(state) as client:
            read = await owner.read_proposal(client, proposal_id)
            seam.note(_text(read))
            _confirm(read.checked.header.hash, witness_id, yes=yes)
            return await owner.attest(client, read, witness_id, signer)

    tally = seam.wait(work())
    seam.show(state, tally, f"{tally.state}: {tally.have} of {tally.need}")


def commit(state: State, *, proposal_id: str, key: MaybeKey = None, passphrase: Passphrase = PROMPT) -> None:
    """Commit a proposal that has its quorum (Root)."""
    root = caller.maybe_signer(key, passphrase)

    done = caller.ask(state, quorum.COMMIT, quorum.ProposalId(proposal_id=proposal_id, id=ids.new()), owner=root)
    seam.show(state, done, f"committed{_witnessed(done.witnessed)} at seq {done.seq}: {done.hash}")


def withdraw(state: State, *, proposal_id: str, key: MaybeKey = None, passphrase: Passphrase = PROMPT) -> None:
    """Withdraw a proposal (Root)."""
    root = caller.maybe_signer(key, passphrase)

    seam.show(
        state, caller.ask(state, quorum.WITHDRAW, quorum.ProposalId(proposal_id=proposal_id, id=ids.new()), owner=root)
    )


def _proposed(state: State, done: quorum.Proposed) -> None:
    lines = [f"proposal {done.proposal_id} needs {done.need} voices, {done.hash}"]
    seam.show(
        state, done, "\n".join([*lines, *(_line(change.path, change.old, change.new) for change in done.difference)])
    )


def _text(read: governed.Read) -> str:
    told = read.shown()
    head = "" if read.on_head else " (another change moved the head: this difference is against what is in force now)"
    lines = [
        f"proposal {told['proposal_id']}: {told['kind']}, {told['state']}{_witnessed(told['witnessed'])}, "
        f"{told['have']} of {told['need']}" + (f", by {', '.join(told['by'])}" if told["by"] else ""),
        f"record {told['record_hash']}, Root's signature verified here",
        f"what it changes, computed here{head}:",
        *(_line(line.path, line.old, line.new) for line in read.lines),
    ]
    return "\n".join(lines)


def _witnessed(standing: str | None) -> str:
    return {"not yet": ", not yet witnessed,", "witnessed": " and witnessed"}.get(standing or "", "")


def _line(path: str, old: Any, new: Any) -> str:
    return f"  {seam.line(path)}: {json.dumps(old)} -> {json.dumps(new)}"


def _confirm(record_hash: str, witness_id: str, *, yes: bool) -> None:
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Sign {record_hash} as {witness_id}?", abort=True, err=True)


def _genesis_of(state: State, license_file: Path | None) -> str:
    """The genesis that a witness's own licence names."""
    toml = state.kept.license_toml if license_file is None else seam.text(license_file)
    if toml is None:
        raise Refusal("which genesis?", "Name your licence with --license, or the hash that you pinned with --genesis.")
    try:
        return licence.parse(toml).license.bindings.canon_fingerprint
    except ValueError as error:
        raise Refusal(f"the licence can't be read: {error}") from error


def _json(text: str) -> dict[str, Any]:
    source = text.encode() if text.lstrip().startswith("{") else Path(text).read_bytes()
    value = _parsed(source, "--payload")
    if not isinstance(value, dict):
        raise Refusal("--payload: expected a JSON object")
    return value


def _parsed(source: bytes, where: str) -> Any:
    try:
        return canonical.parse(source)
    except canonical.NotCanonical as error:
        raise Refusal(f"{where}: {error}") from error


def _overrides(given: list[str]) -> dict[str, int]:
    found = {}
    for text in given:
        kind, _, k = text.partition("=")
        if not (k.isascii() and k.isdigit()):
            raise Refusal(f"--kind {text}: expected KIND=K")
        found[kind] = int(k)
    return found


def _cosigner(text: str) -> system.Cosigner:
    """`VKEY=URL`, or the verifier key alone."""
    vkey, mark, rest = text.partition("=http")
    try:
        if note.VerifierKey.parse(vkey).type != note.COSIGNATURE:
            raise Refusal(f"--cosigner {vkey}: not a cosigner's key", "Its own sigil witness serve prints it.")
        url = f"http{rest}" if mark else None
        return msgspec.convert({"vkey": vkey, "url": url}, system.Cosigner)
    except (note.NoteError, msgspec.ValidationError) as error:
        raise Refusal(f"--cosigner {text}: {error}") from error


def register(app: typer.Typer) -> None:
    """The noun `proposal`, and `seal`, a proposal with a name of its own."""
    noun = seam.family(app, "proposal", "Changes of the system's own rules.")
    seam.verb(noun, "draft")(draft)
    seam.verb(noun, "propose")(propose)
    seam.verb(noun, "together")(together)
    seam.verb(noun, "erase")(order_erasure)
    seam.verb(noun, "list")(show_list)
    seam.verb(noun, "show")(show)
    seam.verb(noun, "attest")(attest)
    seam.verb(noun, "sign")(sign)
    seam.verb(noun, "submit")(submit)
    seam.verb(noun, "rebase")(rebase)
    seam.verb(noun, "commit")(commit)
    seam.verb(noun, "withdraw")(withdraw)
    seam.verb(app, "seal")(seal)
