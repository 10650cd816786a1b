"""A system record carried to the log by hand: for when the gatekeeper or the quorum service is mute, because its own key was revoked; and
for when Root is, so that all witnesses put another in its place.

Nothing is admitted more easily this way: the writer wants Root's signature and the voices of the witnesses, as always. The file goes from
Root to each witness and back to the operator, whose identity on the bus may append; every signature in it is over the very same bytes.
"""

import os
from pathlib import Path
from typing import Any, Final

import msgspec

from cli import ledger
from cli.refusal import Refusal
from sigilcore import clock, governance, ids, merkle, record, signing, verify
from sigilcore.contracts import canon, common, house
from sigilcore.records import REGISTRY
from sigilcore.refusals import Refused, raised
from sigilrun import private_files, receipt
from sigilrun.bus import Bus
from sigilrun.follow import Follower
from sigilrun.settings import DeploymentFile

REACH_S: Final = 30.0
LIFE_MS: Final = 86_400_000


class Folded:
    """The house as its operator sees it over the bus, every governing record verified here from the deployment's genesis on."""

    def __init__(self, bus: Bus, deployment: DeploymentFile) -> None:
        """Use `folded`."""
        self.bus = bus
        self.follower = Follower(bus, deployment)

    @property
    def state(self) -> governance.Governance:
        """The state of the log."""
        return self.follower.state


async def folded(data: Path) -> Folded:
    """Connect as the operator, and fold what governs up to the head."""
    deployment = msgspec.json.decode((data / "deployment.json").read_bytes(), type=DeploymentFile)
    found = Folded(await ledger.connect(data, house.OPERATOR.name), deployment)
    head = (await found.bus.call(canon.EVENTS, canon.Events(first=0, limit=1))).head
    await found.follower.wait_for(head, REACH_S)
    return found


def drafted(
    state: governance.Governance, kind: str, fields: dict[str, Any], root: signing.Signer, now_ms: int
) -> record.SignedRecord:
    """A change on the present head, signed by Root, or by who becomes Root; good for a day."""
    successor = kind == "root_key" and fields.get("key") == root.public_key.hex()
    if root.public_key.hex() != state.root.key and not successor:
        raise Refusal("this key is not Root's")
    payload = REGISTRY[kind].payload(**fields, expires_at=clock.format_ms(now_ms + LIFE_MS))
    return record.build(
        kind,
        payload,
        id=ids.new(),
        tenant=state.tenant,
        ts=clock.format_ms(now_ms),
        space="system",
        signer=root,
        salt=os.urandom(16),
        prev=state.system_head,
    )


def voiced(signed: record.SignedRecord, witness_id: str, signer: signing.Signer) -> record.SignedRecord:
    """The record with one voice more."""
    header, _ = record.open_header(bytes(signed.header))
    others = [voice for voice in header.witnesses if (voice.witness_id, voice.key_id) != (witness_id, signer.key_id)]
    voices = [*others, record.witness(signed, witness_id, signer)]
    return record.witnessed(signed, sorted(voices, key=lambda voice: (voice.witness_id, voice.key_id)))


async def carry(found: Folded, signed: record.SignedRecord) -> common.Placed:
    """Append it; its place, by a receipt that was verified. Raises `Refused`, as the writer does."""
    checked = record.check(signed)
    appended = await found.bus.call(canon.APPEND, canon.Append(records=(signed,)))
    (result,) = appended.results
    if result.refusal is not None:
        raise raised(result.refusal)
    sent = receipt.Sent(id=checked.core.id, hash=checked.header.hash, leaf_hash=merkle.leaf_hash(checked.leaf))
    receipt.prove([sent], appended, await found.follower.opened(appended.checkpoint.encode()), {})
    assert result.seq is not None, "the receipt was proven"
    return common.Placed(id=checked.core.id, hash=checked.header.hash, seq=result.seq)


def read(file: Path) -> record.SignedRecord:
    """The record in a file, its bytes checked."""
    try:
        signed = verify.signed(msgspec.json.decode(file.read_bytes(), type=dict[str, Any]))
        checked = record.check(signed)
    except (msgspec.DecodeError, UnicodeDecodeError, Refused) as error:
        raise Refusal(f"{file} is no record: {error}") from error
    if checked.core.space != "system":
        raise Refusal(f"{file} holds a {checked.core.kind}, not a system record")
    return signed


def write(file: Path, signed: record.SignedRecord) -> None:
    """The record for people to carry."""
    plain = {
        "header": msgspec.json.decode(signed.header),
        "payload": msgspec.json.decode(signed.payload),
        "salt": signed.salt,
    }
    private_files.replace(file, msgspec.json.format(msgspec.json.encode(plain)) + b"\n")
