"""What the house is governed by, folded on this side from records that were verified here.

Nothing is taken on the server's word but that its list is complete up to the head it shows; what it leaves out makes `prev` disagree.
Genesis must be the one that the caller's licence names; every later system record needs Root's signature, the chain, and the voices of
the witnesses before it.
"""

from collections.abc import Iterable
from typing import Any

from cli.refusal import Refusal
from sigilcore import admission, decision, difference, drafts, governance, model_update, record, verify
from sigilcore.contracts import canon, quorum
from sigilcore.records import audit
from sigilcore.refusals import Refused
from sigilrun import http

PAGE = 200


class Unverified(Refusal):
    """What the server showed, or a file holds, doesn't verify here."""

    code = "UNVERIFIED"


async def state(client: http.Client) -> governance.Governance:
    """The governed state at the newest system record, from genesis on."""
    assert client.session is not None, "log in first"
    return folded(await history(client), client.session.genesis_hash)


async def history(client: http.Client) -> list[dict[str, Any]]:
    """Every system record that the house shows, from genesis on; nothing of it is believed yet."""
    shown: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await client.call(canon.LIST, canon.ListRecords(space="system", cursor=cursor, limit=PAGE))
        if page.corrupt:
            raise Unverified(f"the house shows a corrupt system record at seq {page.corrupt[0].seq}")
        shown += [
            {"seq": view.seq, "header": view.header, "payload": view.payload, "salt": view.salt} for view in page.items
        ]
        if page.cursor is None:
            return shown
        cursor = page.cursor


def folded(records: Iterable[dict[str, Any]], genesis_hash: str, seal_hash: str | None = None) -> governance.Governance:
    """The state after these system records, from the pinned genesis on, and under the pinned seal if one is given. Raises `Unverified`."""
    found = governance.Governance()
    last = -1
    for plain in records:
        seq = plain.get("seq")
        if type(seq) is not int or seq <= last:
            raise Unverified("the system records are not in order")
        _fold(found, seq, plain, genesis_hash, seal_hash)
        last = seq
    if not found.bootstrapped:
        raise Unverified("there is no genesis")
    return found


def _fold(
    found: governance.Governance, seq: int, plain: dict[str, Any], genesis_hash: str, seal_hash: str | None
) -> None:
    try:
        checked = record.check(verify.signed(plain))
        if found.bootstrapped:
            verify.check_quorum(found, checked)
        else:
            admission.check_genesis(checked)
            if checked.header.hash != genesis_hash:
                raise Unverified("genesis is not the one that your licence names")
    except Refused as refusal:
        raise Unverified(f"seq {seq}: {refusal.code}: {refusal.message}") from refusal
    open_before = not found.sealed
    found.apply(seq, checked)
    if open_before and found.sealed and seal_hash not in {None, checked.header.hash}:
        raise Unverified("the seal is not the pinned one")


def proposed(found: governance.Governance, parts: quorum.RootSigned) -> record.Checked:
    """The record that a proposal carries, rebuilt here, signed by Root, or by who was Root before. Raises `Unverified`."""
    reason = ""
    for entry in reversed(found.roots.values()):
        root = bytes.fromhex(entry.identity.key)
        try:
            checked = drafts.assembled(parts, root)
            record.verify_author(checked.header, checked.core_bytes, root)
        except Refused as refusal:
            reason = reason or f"{refusal.code}: {refusal.message}"
        else:
            return checked
    raise Unverified(f"the proposal's record: {reason}")


async def decisions(
    client: http.Client, found: governance.Governance, links: Iterable[str]
) -> dict[str, model_update.Judged]:
    """The numbers of scored decisions by their links, each from a record that its proof puts into this log, by a gatekeeper."""
    records: dict[str, tuple[decision.FrozenChain, ...]] = {}
    judged: dict[str, model_update.Judged] = {}
    for link in links:
        ref = decision.parse_ref(link)
        if ref is None:
            raise Refusal(f"{link!r} is no decision's link")
        if ref.record not in records:
            records[ref.record] = await decisions_at(client, found.genesis_hash, ref.record)
        chains = records[ref.record]
        scored = chains[ref.index].chain.trust if ref.index < len(chains) else None
        if scored is not None:
            judged[link] = model_update.Judged(features=scored.features, logit=scored.logit)
    return judged


async def decisions_at(client: http.Client, genesis_hash: str, record_id: str) -> tuple[decision.FrozenChain, ...]:
    """The decisions of a record that its proof puts into the log of this genesis, by a gatekeeper."""
    bundle = await client.call(canon.PROOF, canon.Prove(id=record_id))
    failed = [step for step in verify.verify(bundle, genesis_hash) if not step.ok]
    if failed:
        raise Unverified(f"record {record_id}: {failed[0].name}: {failed[0].detail}")
    checked = record.check(verify.signed(bundle.record))
    decisions = audit.decisions_in(checked.payload)
    if not decisions or checked.core.id != record_id:
        raise Refusal(f"record {record_id} holds no decisions")
    return decisions


class Read:
    """A proposal, read on this side: its record, and what it would change."""

    def __init__(self, found: governance.Governance, view: quorum.ProposalView) -> None:
        """Verify the record that the proposal carries; raises `Unverified`."""
        self.checked = proposed(found, view.record)
        if self.checked.header.hash != view.record_hash:
            raise Unverified("the proposal's hash isn't its record's")
        self.view = view
        self.on_head = self.checked.core.prev == found.system_head
        self.lines = difference.of_change(found, self.checked.payload)
        told = tuple((line.path, line.old, line.new) for line in view.difference)
        # Only a proposal on the head differs from what is in force in the way that both sides compute.
        if (
            self.on_head
            and view.state in {"open", "ready"}
            and told != tuple((line.path, line.old, line.new) for line in self.lines)
        ):
            raise Unverified("the house shows another difference than its records give")

    def shown(self) -> dict[str, Any]:
        """For output: everything here was computed on this side, but the tally."""
        view = self.view
        return {
            "proposal_id": view.proposal_id,
            "kind": self.checked.core.kind,
            "state": view.state,
            "witnessed": view.witnessed,
            "reason": view.reason,
            "record_hash": self.checked.header.hash,
            "root_signature": "verified",
            "on_head": self.on_head,
            "have": view.have,
            "need": view.need,
            "by": list(view.by),
            "missing": list(view.missing),
            "expires_at": view.expires_at,
            "difference": [{"path": line.path, "old": line.old, "new": line.new} for line in self.lines],
        }
