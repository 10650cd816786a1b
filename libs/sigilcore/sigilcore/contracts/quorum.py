"""The quorum: proposals, attestations, the witness registry, and trust model and access policy as governed things."""

from typing import Annotated, Any, Literal

import msgspec

from sigilcore import model_update, policy, trust
from sigilcore.access import Loa
from sigilcore.contracts.command import Action, Admission, Command, Http, Target
from sigilcore.contracts.common import Cursor, Empty, Id, Limit, Message, WaitFor
from sigilcore.contracts.license import Draft
from sigilcore.record_types import Hex64, Name, PublicKey, RecordId, Signature
from sigilcore.refusals import Code
from sigilcore.witnessed import Standing

SERVICE = "quorum"
State = Literal["open", "ready", "committed", "expired", "withdrawn", "stale", "refused"]


class RootSigned(Message, frozen=True, kw_only=True):
    """A draft as it was made, with Root's signature over JCS(core)."""

    core: Annotated[str, msgspec.Meta(max_length=16_384)]
    payload: Annotated[str, msgspec.Meta(max_length=65_536)]
    salt: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    sig: Signature


class MakeDraft(Message, frozen=True, kw_only=True):
    """A change to draft: kind and payload (`expires_at` is filled in where it is missing, in each of several changes too)."""

    kind: Annotated[str, msgspec.Meta(max_length=32)]
    payload: dict[str, Any]


class Propose(Message, frozen=True, kw_only=True):
    """The whole prospective record, signed by Root."""

    record: RootSigned
    id: Id | None = None


class Change(Message, frozen=True, kw_only=True):
    """One difference between what is and what would be; a path in the payload."""

    path: str
    old: Any
    new: Any


class Proposed(Message, frozen=True, kw_only=True):
    """A new proposal and how many voices it needs."""

    proposal_id: RecordId
    hash: Hex64
    need: int
    difference: tuple[Change, ...]
    seq: int


class ProposalId(Message, frozen=True, kw_only=True):
    """Names a proposal."""

    proposal_id: RecordId
    id: Id | None = None


class ReadProposal(Message, frozen=True, kw_only=True):
    """Names a proposal to read."""

    proposal_id: RecordId
    wait_for: WaitFor | None = None


class ProposalView(Message, frozen=True, kw_only=True):
    """A proposal: the record to sign, its difference as the server sees it (compute your own), and the tally. `witnessed`: once it is
    committed, whether enough cosigners have signed a checkpoint that covers it."""

    proposal_id: RecordId
    state: State
    kind: str
    record: RootSigned
    record_hash: Hex64
    difference: tuple[Change, ...]
    need: int
    have: int
    by: tuple[str, ...]
    missing: tuple[str, ...]
    expires_at: str
    opened_seq: int
    reason: str
    witnessed: Standing | None = None


class ListProposals(Message, frozen=True, kw_only=True):
    """Proposals, newest first."""

    state: State | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class ProposalPage(Message, frozen=True, kw_only=True):
    """A page of proposals."""

    items: tuple[ProposalView, ...]
    cursor: str | None


class Attest(Message, frozen=True, kw_only=True):
    """A witness's signature (base64) over the proposal's JCS(core), DSSE type `application/vnd.sigil.record.v1+json`."""

    proposal_id: RecordId
    witness_id: Name
    signature: Signature


class Tally(Message, frozen=True, kw_only=True):
    """Voices so far."""

    have: int
    need: int
    state: State


class Committed(Message, frozen=True, kw_only=True):
    """The system record and its place; `witnessed` as in a view of the proposal."""

    proposal_id: RecordId
    id: RecordId
    hash: Hex64
    seq: int
    witnessed: Standing = "not required"


class WitnessChange(Message, frozen=True, kw_only=True):
    """A change of the registry; without `record` the answer is a draft to sign."""

    witness_id: Name
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = "-"
    key: PublicKey | None = None
    persona: bool | None = None
    record: RootSigned | None = None


class DraftOrProposal(Message, frozen=True, kw_only=True):
    """First the draft for Root to sign; then the proposal."""

    draft: Draft | None = None
    proposal_id: RecordId | None = None
    hash: str | None = None
    need: int | None = None


class WitnessView(Message, frozen=True, kw_only=True):
    """A witness and the positions between which its key counts; of personas no more count in a quorum than the policy lets."""

    witness_id: str
    name: str
    key: PublicKey
    since_seq: int
    until_seq: int | None
    persona: bool = False


class WitnessList(Message, frozen=True, kw_only=True):
    """The registry with its history, and the quorum in force (null before the seal)."""

    items: tuple[WitnessView, ...]
    active: int
    quorum: int | None


class UploadModel(Message, frozen=True, kw_only=True):
    """A new trust model; without `record` the answer is a draft to sign."""

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    weights: trust.Weights
    bias: int
    threshold: int
    because: model_update.Because | None = None
    record: RootSigned | None = None


class CurrentModel(Message, frozen=True, kw_only=True):
    """The model in force and the record that put it there."""

    model: trust.TrustModel
    seq: int
    as_of: int


class UploadPolicy(Message, frozen=True, kw_only=True):
    """A new access policy, whole; without `record` the answer is a draft to sign."""

    policy: policy.AccessPolicy
    record: RootSigned | None = None


class CurrentPolicy(Message, frozen=True, kw_only=True):
    """The access policy in force and the record that put it there."""

    policy: policy.AccessPolicy
    seq: int
    as_of: int


_PROPOSE_REFUSALS = (
    Code.RECORD_INVALID,
    Code.KIND_UNKNOWN,
    Code.KIND_NOT_ALLOWED,
    Code.SIGNATURE_INVALID,
    Code.STALE_PREV,
    Code.THRESHOLD_INVALID,
    Code.WITNESS_TAKEN,
    Code.WITNESS_UNKNOWN,
    Code.ROOT_IS_NO_WITNESS,
    Code.WEAK_KEY,
    Code.NOT_SEALED,
    Code.PROPOSAL_EXPIRED,
    Code.LICENSE_INVALID,
    Code.ID_TAKEN,
)
_CLOSED = (Code.NOT_FOUND, Code.PROPOSAL_EXPIRED, Code.PROPOSAL_CLOSED)


def _propose(
    name: str, request: type[Any], reply: type[Any], summary: str, path: str, *, candidate_field: str | None = None
) -> Command[Any, Any]:
    return Command(
        name=name,
        service=SERVICE,
        request=request,
        reply=reply,
        summary=summary,
        action=Action.WRITE,
        target=Target.SYSTEM,
        rung=Loa.ROOT,
        writes=("proposal_opened",),
        http=Http(method="POST", path=path),
        refusals=_PROPOSE_REFUSALS,
        candidate_field=candidate_field,
    )


DRAFT = Command(
    name="quorum/draft",
    service=SERVICE,
    request=MakeDraft,
    reply=Draft,
    summary="A system record to sign, on the current head.",
    action=Action.READ,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    refusals=(Code.KIND_UNKNOWN, Code.KIND_NOT_ALLOWED),
)
PROPOSE = _propose(
    "quorum/propose",
    Propose,
    Proposed,
    "Propose a system change, signed by Root.",
    "/api/canon/system/propose",
    candidate_field="record",
)
PROPOSALS = Command(
    name="quorum/proposals",
    service=SERVICE,
    request=ListProposals,
    reply=ProposalPage,
    summary="Proposals and their tallies.",
    action=Action.READ,
    target=Target.CONFIG,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/canon/system/proposals"),
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)
PROPOSAL = Command(
    name="quorum/proposal",
    service=SERVICE,
    request=ReadProposal,
    reply=ProposalView,
    summary="One proposal, whole.",
    action=Action.READ,
    target=Target.CONFIG,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/canon/system/proposal/{proposal_id}"),
    refusals=(Code.NOT_FOUND, Code.BEYOND_HEAD, Code.NOT_YET),
)
ATTEST = Command(
    name="quorum/attest",
    service=SERVICE,
    request=Attest,
    reply=Tally,
    summary="Add a witness's signature; admitted by it alone.",
    action=Action.WRITE,
    target=Target.SYSTEM,
    admission=Admission.WITNESS,
    scored=False,
    http=Http(method="POST", path="/api/canon/system/attest"),
    refusals=(
        *_CLOSED,
        Code.WITNESS_UNKNOWN,
        Code.ALREADY_ATTESTED,
        Code.ROOT_IS_NO_WITNESS,
        Code.SIGNATURE_INVALID,
    ),
)
COMMIT = Command(
    name="quorum/commit",
    service=SERVICE,
    request=ProposalId,
    reply=Committed,
    summary="Commit a proposal that has its quorum.",
    action=Action.WRITE,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    http=Http(method="POST", path="/api/canon/system/commit"),
    refusals=(*_CLOSED, Code.QUORUM_NOT_SATISFIED, *_PROPOSE_REFUSALS),
)
WITHDRAW = Command(
    name="quorum/withdraw",
    service=SERVICE,
    request=ProposalId,
    reply=Tally,
    summary="Withdraw a proposal.",
    action=Action.DELETE,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    scored=False,
    http=Http(method="POST", path="/api/canon/system/withdraw"),
    refusals=_CLOSED,
)
REBASE = _propose(
    "quorum/rebase",
    Propose,
    Proposed,
    "Propose a stale change again on the current head; attestations don't carry over.",
    "/api/canon/system/rebase",
    candidate_field="record",
)
WITNESS_ADD = _propose(
    "witness/add",
    WitnessChange,
    DraftOrProposal,
    "Propose a witness.",
    "/api/witness/add",
    candidate_field="witness_id",
)
WITNESS_ROTATE = _propose(
    "witness/rotate", WitnessChange, DraftOrProposal, "Propose a witness's new key.", "/api/witness/rotate"
)
WITNESS_REVOKE = _propose(
    "witness/revoke", WitnessChange, DraftOrProposal, "Propose a witness's end.", "/api/witness/revoke"
)
WITNESS_LIST = Command(
    name="witness/list",
    service=SERVICE,
    request=Empty,
    reply=WitnessList,
    summary="The witness registry with its history.",
    action=Action.READ,
    target=Target.CONFIG,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/witness/list"),
)
MODEL_UPLOAD = _propose("model/upload", UploadModel, DraftOrProposal, "Propose a new trust model.", "/api/model/upload")
MODEL_CURRENT = Command(
    name="model/current",
    service=SERVICE,
    request=Empty,
    reply=CurrentModel,
    summary="The trust model in force, by the log.",
    action=Action.READ,
    target=Target.PROFILE,
    rung=Loa.GUEST,
    http=Http(method="GET", path="/api/model/current"),
)
POLICY_UPLOAD = _propose(
    "policy/upload", UploadPolicy, DraftOrProposal, "Propose a new access policy.", "/api/policy/upload"
)
POLICY_CURRENT = Command(
    name="policy/current",
    service=SERVICE,
    request=Empty,
    reply=CurrentPolicy,
    summary="The access policy in force, by the log.",
    action=Action.READ,
    target=Target.CONFIG,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/policy/current"),
)

COMMANDS = (
    DRAFT,
    PROPOSE,
    PROPOSALS,
    PROPOSAL,
    ATTEST,
    COMMIT,
    WITHDRAW,
    REBASE,
    WITNESS_ADD,
    WITNESS_ROTATE,
    WITNESS_REVOKE,
    WITNESS_LIST,
    MODEL_UPLOAD,
    MODEL_CURRENT,
    POLICY_UPLOAD,
    POLICY_CURRENT,
)
