"""A proposal in a file, so that a witness may sign where there is no server and no network.

The file holds the record to sign and every system record before it. Who signs believes none of it:

1. Genesis must be the one that the witness pins, by their licence or by its hash; so must the seal, if they pin that.
2. Every later record is admitted again here by its quorum, and the proposed one carries Root's signature.
3. The proposed record stands on the newest of them: a file whose history was cut short shows another head, and is refused.
4. What is shown is computed from the very bytes that are signed; the file's own words about it don't exist.

Voices are added to the file and travel back in it; each is a signature, worth nothing for another record.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from cli import governed
from cli.refusal import Refusal
from sigilcore import admission, canonical, clock, difference, governance, record, signing
from sigilcore.contracts import quorum
from sigilcore.record_types import Name, RecordId, Signature
from sigilcore.records import system
from sigilrun import private_files

MAX_BYTES: Final = 64 * 1024 * 1024


class Voice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A witness's signature over the record's core."""

    witness_id: Name
    signature: Signature


class Packet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds."""

    format: Literal["sigil-proposal/1"]
    proposal_id: RecordId
    record: quorum.RootSigned
    records: tuple[dict[str, Any], ...]
    voices: Annotated[tuple[Voice, ...], msgspec.Meta(max_length=32)] = ()


class Opened:
    """A packet that was verified against what its reader pins."""

    def __init__(self, packet: Packet, genesis_hash: str, seal_hash: str | None, now_ms: int) -> None:
        """Take the steps above; raises `Unverified`."""
        self.packet = packet
        self.state: governance.Governance = governed.folded(packet.records, genesis_hash, seal_hash)
        self.checked = governed.proposed(self.state, packet.record)
        if self.checked.header.key_id != signing.key_id(bytes.fromhex(self.state.root.key)):
            raise governed.Unverified("the record is by a Root that was replaced")
        if self.checked.core.prev != self.state.system_head:
            raise governed.Unverified("the record doesn't stand on the newest system record in this file")
        _check_time(system.ends_at(self.checked.payload), now_ms)
        self.lines = difference.of_change(self.state, self.checked.payload)

    def signed(self, witness_id: str, signer: signing.Signer) -> Packet:
        """The packet with one voice more; refused for a key that has no voice here."""
        entry = self.state.active_witnesses().get(witness_id)
        joining = admission.joining_keys(self.checked.payload)
        if signer.public_key not in {None if entry is None else entry.key, joining.get(witness_id)}:
            raise Refusal(f"{witness_id} doesn't speak with this key", "Look at sigil witness list.")
        voice = Voice(witness_id=witness_id, signature=signature(self.checked, signer))
        others = tuple(one for one in self.packet.voices if one != voice)
        return msgspec.structs.replace(self.packet, voices=(*others, voice))


def _check_time(ends: str, now_ms: int) -> None:
    try:
        over = now_ms >= clock.parse_ms(ends)
    except ValueError as error:
        raise governed.Unverified("its end is no time") from error
    if over:
        raise governed.Unverified(f"it expired at {ends}")


def signature(checked: record.Checked, signer: signing.Signer) -> str:
    """A witness's signature over exactly this record."""
    return signing.signature_text(signing.sign_typed(signer, signing.RECORD, checked.core_bytes))


def made(view: quorum.ProposalView, records: list[dict[str, Any]]) -> Packet:
    """The packet of a proposal."""
    return Packet(format="sigil-proposal/1", proposal_id=view.proposal_id, record=view.record, records=tuple(records))


def read(file: Path) -> Packet:
    """A packet from a file; raises `Refusal` for what is none."""
    try:
        return canonical.typed(canonical.parse(file.read_bytes(), max_bytes=MAX_BYTES), Packet)
    except canonical.NotCanonical as error:
        raise Refusal(f"{file} is no proposal: {error}", "Make one with sigil proposal show --out.") from error


def write(file: Path, packet: Packet) -> None:
    """A packet for people to carry."""
    private_files.replace(file, msgspec.json.format(msgspec.json.encode(packet)) + b"\n")
