"""`sigil grid`: other nodes, what is lent to them, and calls to them.

Root signs grants here, with Root's own key file, for the key that the peer's card names: a card goes from hand to hand, so that no server
between two owners can put its own key in the place of a peer's.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cli import adapt, caller, lending, licenses, seam
from cli.blueprint import moment
from cli.refusal import Refusal
from cli.seam import PROMPT, Key, MaybeKey, Passphrase, State
from sigilcore import clock, ids, peers
from sigilcore.contracts import catalogue, common
from sigilcore.contracts import grid as contract
from sigilrun import private_files

PeerArgument = Annotated[str, typer.Argument(help="the peer's name here")]
CardFile = Annotated[
    Path, typer.Option("--card", help="the peer's card, as its people gave it to you (sigil grid card there)")
]
Reason = Annotated[str, typer.Option("--reason")]


def card(state: State) -> None:
    """This node's card, for its peers' owners: public, but hand it over where nobody can change it."""
    told = caller.ask(state, contract.NODE, common.Empty())
    seam.show(state, told, json.dumps(msgspec.to_builtins(told), indent=2))


def enrol(
    state: State,
    peer: PeerArgument,
    *,
    card: CardFile,
    mesh: Annotated[str, typer.Option("--mesh", help="the mesh that it is of")],
    tier: Annotated[str, typer.Option("--tier", help="provisional (a guest) or trusted (an observer)")] = "provisional",
    mesh_key: Annotated[
        str | None,
        typer.Option("--mesh-key", help="a public key, hex or key file: this mesh may set the tier by its signature"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="its address, if it is to be called: https://host, or http:// on loopback"),
    ] = None,
    key: MaybeKey = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Let a node call here (Root)."""
    theirs = _card(card)
    asked = _typed(
        {
            "peer": peer,
            "key": theirs.node_key,
            "tier": tier,
            "mesh": mesh,
            "mesh_key": licenses.public_hex(mesh_key),
            "reach": None if to is None else _reach(theirs, to),
            "id": ids.new(),
        },
        contract.EnrolPeer,
    )
    root = caller.maybe_signer(key, passphrase)

    seam.show(state, caller.ask(state, contract.PEER_ENROL, asked, owner=root))


def block(
    state: State, peer: PeerArgument, *, reason: Reason = "", key: MaybeKey = None, passphrase: Passphrase = PROMPT
) -> None:
    """End a peer's calls, whatever it shows (Root)."""
    asked = _typed({"peer": peer, "reason": reason, "id": ids.new()}, contract.BlockPeer)
    root = caller.maybe_signer(key, passphrase)

    seam.show(state, caller.ask(state, contract.PEER_BLOCK, asked, owner=root))


def tier(
    state: State,
    peer: PeerArgument,
    *,
    membership: Annotated[Path, typer.Option("--membership", help="the mesh's signed word (sigil grid vouch)")],
) -> None:
    """Bring the mesh's word on a peer's tier (operator)."""
    asked = _typed({"peer": peer, "membership": seam.text(membership).strip(), "id": ids.new()}, contract.TierPeer)

    seam.show(state, caller.ask(state, contract.PEER_TIER, asked))


def show_peers(state: State, limit: seam.Limit = 50, cursor: seam.Cursor = None) -> None:
    """Peers, their tiers and marks (mentor)."""
    page = caller.ask(state, contract.PEER_LIST, contract.ListPeers(limit=limit, cursor=cursor))
    columns = ("peer", "tier", "mesh", "key_id", "mark", "next_epoch", "address")
    seam.show(state, page, seam.page(page.items, page.cursor, *columns))


def grant(
    state: State,
    peer: PeerArgument,
    *,
    card: CardFile,
    key: Key,
    out: Annotated[Path, typer.Option("--out", help="where the grant goes; it is never overwritten")],
    capability: Annotated[
        list[str] | None,
        typer.Option("--capability", help="a command such as memory/write; repeat it; none: a grant of nothing"),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option("--expires-at", help="2030-01-01T00:00:00.000Z, or a day; by default it has no end")
    ] = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Lend commands to a peer: sign a grant with Root's key, here, and issue it. What it doesn't name is over once the peer shows it."""
    seam.free(out)
    theirs, root = _card(card), caller.signer(key, passphrase)
    ends_ms = None if expires_at is None else _moment_ms(expires_at)

    async def work() -> lending.Lent:
        async with caller.calling(state, owner=root) as client:
            to = await lending.peer(client, peer)
            if to.key != theirs.node_key:
                raise Refusal(f"the house says that {peer} has another key than its card", "Ask the peer's people.")
            return await lending.lend(client, root, to, tuple(capability or ()), expires_at_ms=ends_ms)

    lent = seam.wait(work())
    private_files.write_new(out, lent.grant.encode() + b"\n")
    text = f"epoch {lent.placed.epoch} for {peer}, issued at seq {lent.placed.seq}, written to {out}"
    seam.show(state, lent.placed, text)


def revoke(
    state: State, peer: PeerArgument, *, reason: Reason = "", key: MaybeKey = None, passphrase: Passphrase = PROMPT
) -> None:
    """End every grant of a peer (Root); felt at every gate within a second."""
    asked = _typed({"peer": peer, "reason": reason, "id": ids.new()}, contract.RevokeGrants)
    root = caller.maybe_signer(key, passphrase)

    seam.show(state, caller.ask(state, contract.GRANT_REVOKE, asked, owner=root))


def show_grants(
    state: State,
    peer: Annotated[str | None, typer.Option("--peer", help="of this peer only")] = None,
    limit: seam.Limit = 50,
    cursor: seam.Cursor = None,
) -> None:
    """What was lent, in order of issue (mentor)."""
    asked = _typed({"peer": peer, "limit": limit, "cursor": cursor}, contract.ListGrants)

    page = caller.ask(state, contract.GRANT_LIST, asked)
    columns = ("peer", "epoch", "capabilities", "expires_at_ms", "counts", "issued_seq")
    seam.show(state, page, seam.page(page.items, page.cursor, *columns))


def hold(
    state: State, peer: PeerArgument, file: Annotated[Path, typer.Argument(help="the grant that its owner gave you")]
) -> None:
    """Keep a grant that a peer's owner gave to this node (operator)."""
    asked = _typed({"peer": peer, "grant": seam.text(file).strip()}, contract.HoldGrant)

    seam.show(state, caller.ask(state, contract.HOLD, asked).held)


def call(
    state: State,
    peer: PeerArgument,
    *,
    name: Annotated[str, typer.Argument(help="a command's name, such as memory/list")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PARAMETERS", help="one JSON object, or --key value pairs")
    ] = None,
) -> None:
    """Ask a command of a peer (operator). Options of this verb come before the peer's name, parameters after the command's."""
    command = catalogue.COMMANDS.get(name)
    fields = () if command is None else tuple(one.encode_name for one in msgspec.structs.fields(command.request))
    try:
        parameters: dict[str, Any] = adapt.adapt(list(words or ()), fields)
    except adapt.NotParameters as error:
        raise Refusal(f"{name}: {error}", f"See sigil call {name} --help.") from error
    asked = _typed({"peer": peer, "command": name, "parameters": parameters}, contract.CallPeer)

    seam.show(state, caller.ask(state, contract.CALL, asked))


def vouch(
    state: State,
    *,
    card: CardFile,
    mesh: Annotated[str, typer.Option("--mesh", help="the mesh's name")],
    tier: Annotated[peers.Tier, typer.Option("--tier", help="blocked, provisional or trusted")],
    key: Annotated[Path, typer.Option("--key", help="the mesh's key file; the key never leaves this machine")],
    out: Annotated[Path, typer.Option("--out", help="where the membership goes; it is never overwritten")],
    expires_at: Annotated[
        str | None, typer.Option("--expires-at", help="a moment or a day; by default it has no end")
    ] = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """A mesh's word on a member, signed with the mesh's key. Talks to nobody."""
    said = {
        "mesh": mesh,
        "member_key": _card(card).node_key,
        "tier": tier,
        "issued_at_ms": clock.SystemClock().now_ms(),
        "expires_at_ms": None if expires_at is None else _moment_ms(expires_at),
    }
    token = peers.vouch(caller.signer(key, passphrase), _typed(said, peers.Membership))
    private_files.write_new(out, token.encode() + b"\n")
    seam.show(state, said, f"written to {out}")


def _card(path: Path) -> contract.NodeCard:
    try:
        return msgspec.json.decode(path.read_bytes(), type=contract.NodeCard)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} is no card: {error}", "It is what sigil grid card --json prints there.") from error


def _reach(theirs: contract.NodeCard, address: str) -> dict[str, Any]:
    return {
        "address": address,
        "runtime_id": theirs.runtime_id,
        "canon_fingerprint": theirs.canon_fingerprint,
        "owner_key": theirs.owner_key,
    }


def _typed(given: dict[str, Any], kind: type[Any]) -> Any:
    """What a person typed, as the contract has it; what doesn't fit is theirs to correct."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise Refusal(str(error), "Correct the named option.") from error


def _moment_ms(text: str) -> int:
    try:
        return clock.parse_ms(moment(text))
    except ValueError as error:
        raise Refusal(f"--expires-at: {error}", "Write 2030-01-01T00:00:00.000Z, or a day.") from error


def register(app: typer.Typer) -> None:
    """The noun `grid`, and `peer` within it."""
    noun = seam.family(app, "grid", "Other nodes: who may call here, what is lent to them, and calls to them.")
    peer = seam.family(noun, "peer", "Nodes that may call here.")
    seam.verb(peer, "enrol")(enrol)
    seam.verb(peer, "block")(block)
    seam.verb(peer, "tier")(tier)
    seam.verb(peer, "list")(show_peers)
    seam.verb(noun, "card")(card)
    seam.verb(noun, "grant")(grant)
    seam.verb(noun, "revoke")(revoke)
    seam.verb(noun, "grants")(show_grants)
    seam.verb(noun, "hold")(hold)
    seam.verb(noun, "call", context_settings={"allow_interspersed_args": False})(call)
    seam.verb(noun, "vouch")(vouch)
