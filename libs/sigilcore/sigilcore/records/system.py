"""What the system is governed by: genesis, Root, witnesses, quorum policy, trust model, access policy, service keys, the log's key; and
what the quorum orders: that a thing is erased which isn't Root's.

Every payload but genesis carries its own `expires_at`: an attested change that is committed too late is refused by the writer.

One record may make several of these changes (`changes`), so that they stand or fall together. Whoever asks what a system record changes
asks `changes_in`, and hears of one alone and of several in the same way.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from sigilcore import model_update, policy, trust
from sigilcore.record_types import Hex64, Name, PublicKey, Timestamp
from sigilcore.records.kind import Kind
from sigilcore.records.user import ErasableKind, Key


class RootIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who Root is."""

    owner_id: Name
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    key: PublicKey


class Genesis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Record 0: everything a verifier pins by one hash."""

    format: Literal["sigil/1"]
    tenant: str
    runtime_id: Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
    root: RootIdentity
    services: Annotated[dict[str, PublicKey], msgspec.Meta(description="service name to its service key")]
    log: Annotated[str, msgspec.Meta(max_length=256, description="the log's verifier key (C2SP signed-note vkey)")]
    bootstrap_token_hash: Hex64
    model: trust.TrustModel
    policy: policy.AccessPolicy
    modules: tuple[str, ...]
    corpus_licences: tuple[str, ...]


class TrustedWitness(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A change of the witness registry. `witness_id` is the principal: the owner id of a mentor licence. `persona`: run by a model, so that
    the policy's cap holds for its voice; who is enrolled as one stays one."""

    action: Literal["add", "rotate", "revoke"]
    witness_id: Name
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    key: PublicKey
    licence_id: Annotated[str, msgspec.Meta(max_length=36)]
    expires_at: Timestamp
    persona: bool = False


class Cosigner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who cosigns checkpoints, by its verifier key (C2SP vkey, type 0x04), and where it is asked; without a URL it isn't asked by us."""

    vkey: Annotated[str, msgspec.Meta(max_length=256)]
    url: Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://[\x21\x24-\x3e\x40-\x7e]{1,240}\Z")] | None


class CheckpointWitnesses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many (`c`) of which cosigners a checkpoint needs before what it covers counts as witnessed; 0 asks for none."""

    c: Annotated[int, msgspec.Meta(ge=0, le=32)]
    cosigners: Annotated[tuple[Cosigner, ...], msgspec.Meta(max_length=32)]


class QuorumPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seals the system: k of the active witnesses, and higher k by kind, of whom at most `persona_cap` are personas. k below 1 can't be
    expressed."""

    k: Annotated[int, msgspec.Meta(ge=1, le=32)]
    kinds: Annotated[dict[str, Annotated[int, msgspec.Meta(ge=1, le=32)]], msgspec.Meta(max_length=64)]
    proposal_ttl_s: Annotated[int, msgspec.Meta(ge=60, le=2_592_000)]
    checkpoint_witnesses: CheckpointWitnesses
    persona_cap: Annotated[int, msgspec.Meta(ge=0, le=32)]
    expires_at: Timestamp


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A new trust model; `because` names the outcomes that it was computed from, so whoever is asked can compute it again."""

    model: trust.TrustModel
    expires_at: Timestamp
    because: model_update.Because | None = None


class AccessPolicyChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new access policy, whole."""

    policy: policy.AccessPolicy
    expires_at: Timestamp


class ServiceKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Enrols or rotates a service's key; the old key and its instances end at this position."""

    service: Name
    key: PublicKey
    expires_at: Timestamp


class LogKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rotates the log's key: every checkpoint that covers this record is signed by the new key, and by no older one."""

    vkey: Annotated[str, msgspec.Meta(max_length=256, description="the log's new verifier key (C2SP signed-note vkey)")]
    expires_at: Timestamp


class RootKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another Root, or another key of the same: the old key and its licence end at this position. Signed by the old Root with the quorum's
    voices, the new key proving itself among the witnesses; or by the new key itself with the voice of every active witness."""

    owner_id: Name
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    key: PublicKey
    expires_at: Timestamp


class ErasureOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a person's thing is erased, whole, whoever owns it: all versions that there are when the order is carried out.

    It stands in for the owner's decision of one `erasure` of exactly this thing, once, and until `expires_at`. Only things of people can be
    named: there is no order for `audit` or `system`.
    """

    owner: Name
    kind: ErasableKind
    key: Key
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    expires_at: Timestamp


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of what may stand among several changes: a kind, and the payload that a record of this kind alone would have.

    Absent on purpose: `genesis`, which has no record before it; `root_key`, since the record that carries it says who Root is, and so who
    signs it and how many must agree; `erasure_order`, which changes no rule and can't be taken back, so it is read by itself; `changes`.
    """


class WitnessPart(Part, frozen=True, kw_only=True, tag="trusted_witness"):
    """A change of the witness registry."""

    payload: TrustedWitness


class QuorumPart(Part, frozen=True, kw_only=True, tag="quorum_policy"):
    """Another quorum policy. It never seals: the seal is a record of its own."""

    payload: QuorumPolicy


class ModelPart(Part, frozen=True, kw_only=True, tag="model_config"):
    """A new trust model."""

    payload: ModelConfig


class AccessPart(Part, frozen=True, kw_only=True, tag="access_policy"):
    """A new access policy."""

    payload: AccessPolicyChange


class ServicePart(Part, frozen=True, kw_only=True, tag="service_key"):
    """A service's new key."""

    payload: ServiceKey


class LogPart(Part, frozen=True, kw_only=True, tag="log_key"):
    """The log's new key."""

    payload: LogKey


class Changes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several changes that stand or fall together, each on what those before it left; no two of the same thing. They need the most voices
    that any of their kinds does, of the witnesses before all of them, and end with the first of their ends."""

    changes: Annotated[
        tuple[WitnessPart | QuorumPart | ModelPart | AccessPart | ServicePart | LogPart, ...],
        msgspec.Meta(min_length=2, max_length=16),
    ]
    expires_at: Timestamp


class Change(NamedTuple):
    """One change that a system record makes: its kind, its payload, and where in the record that stands."""

    kind: str
    payload: Any
    path: str


def changes_in(payload: object) -> tuple[Change, ...]:
    """What a system record's payload changes, in order: one thing, or each that it carries. Any other payload changes nothing."""
    if isinstance(payload, Changes):
        return tuple(
            Change(_TAGS[type(part.payload)], part.payload, f"$.payload.changes[{index}].payload")
            for index, part in enumerate(payload.changes)
        )
    tag = _TAGS.get(type(payload))
    return () if tag is None else (Change(tag, payload, "$.payload"),)


def ends_at(payload: Any) -> str:
    """When a proposed change ends by itself: the first of its own end and those of the changes that it carries."""
    return min(str(payload.expires_at), *(str(change.payload.expires_at) for change in changes_in(payload)))


def _kind(tag: str, payload: type[msgspec.Struct], summary: str) -> Kind:
    return Kind(tag=tag, payload=payload, space="system", summary=summary, governs=True)


KINDS = (
    _kind("genesis", Genesis, "Record 0: root, service keys, the log's key, first model and policy."),
    _kind("trusted_witness", TrustedWitness, "A witness is added, rotated or revoked."),
    _kind("quorum_policy", QuorumPolicy, "Seals the system, or changes the quorum."),
    _kind("model_config", ModelConfig, "A new trust model."),
    _kind("access_policy", AccessPolicyChange, "A new access policy."),
    _kind("service_key", ServiceKey, "A service's key is enrolled or rotated."),
    _kind("log_key", LogKey, "The log's key is rotated; checkpoints from here on are signed by the new one."),
    _kind("root_key", RootKey, "Root is replaced, by itself and the quorum, or by all witnesses without it."),
    _kind("erasure_order", ErasureOrder, "A person's thing is to be erased, by the quorum instead of its owner."),
    _kind("changes", Changes, "Several changes that stand or fall together."),
)
_TAGS: Final[Mapping[type, str]] = {kind.payload: kind.tag for kind in KINDS}
