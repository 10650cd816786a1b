"""The gatekeeper: sessions, the gate, trust, and what a caller may call."""

from typing import Annotated, Any, Literal

import msgspec

from sigilcore import trust
from sigilcore.access import Loa
from sigilcore.contracts.command import Action, Admission, Command, Http, Target
from sigilcore.contracts.common import Empty, Message
from sigilcore.decision import DecisionRef, Verdict
from sigilcore.record_types import Hex32, Hex64, Name, PublicKey, RecordId, Timestamp
from sigilcore.refusals import Code

SERVICE = "gatekeeper"
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]
Review = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\A[0-9a-f-]{36}\.[0-9]{1,3}\Z",
        description="the decision that asked for the review: `<record id>.<index>`",
    ),
]
Approval = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\A[0-9a-f-]{36}\.[0-9]{1,3}\.[0-9a-f]{32}\Z",
        description="the review that was approved and its salt: `<record id>.<index>.<salt>`",
    ),
]


class Challenge(Message, frozen=True, kw_only=True):
    """A nonce to open a session with, and what a certificate must name."""

    nonce: Token
    runtime_id: str
    tenant: str
    canon_fingerprint: str
    expires_ms: int


class OpenSession(Message, frozen=True, kw_only=True):
    """A licence (TOML), a nonce, and for key-bound licences the session key and the owner's certificate for it."""

    license: Annotated[str, msgspec.Meta(max_length=16_384)]
    nonce: Token
    session_key: PublicKey | None = None
    certificate: Token | None = None
    not_after_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None


class OpenPeerSession(Message, frozen=True, kw_only=True):
    """A peer's opening: `peers.PeerSession`, sealed with its node's key; names this deployment, the session key and the nonce."""

    opening: Token


class SessionView(Message, frozen=True, kw_only=True):
    """An open session; `token` is what the caller presents. `bearer` says that whoever holds the token is the caller."""

    token: Token
    session_id: RecordId
    owner_id: str
    owner_name: str
    loa: Loa
    bearer: bool
    not_after_ms: int


class SessionCall(Message, frozen=True, kw_only=True):
    """A session token, with the proof when it is key-bound."""

    session: Token
    proof: Token | None = None


class Authorize(Message, frozen=True, kw_only=True):
    """May this caller make this call? `parameters` is the exact text of the body; `grant` what a peer was lent."""

    session: Token
    proof: Token | None = None
    command: Annotated[str, msgspec.Meta(max_length=64)]
    parameters: str
    grant: Token | None = None
    approval: Approval | None = None


class AuthorizeChild(Message, frozen=True, kw_only=True):
    """May this call be made on behalf of the caller of that one? `parent` is the permit of a call that the asking service is answering."""

    parent: Token
    command: Annotated[str, msgspec.Meta(max_length=64)]
    parameters: str


class Authorized(Message, frozen=True, kw_only=True):
    """The permit (header `Sigil-Permit`), and the decision that it stands on."""

    permit: Token
    decision: DecisionRef
    verdict: Verdict


class ListReviews(Message, frozen=True, kw_only=True):
    """Calls that wait for a mentor: one's own, for a mentor everybody's."""


class ReviewView(Message, frozen=True, kw_only=True):
    """A call that waits for a mentor. `parameters` is the body's exact text; SHA-256 of `salt` and it is `digest`, which the decision in
    the log holds too: whoever approves compares."""

    review: Review
    owner: str
    command: str
    parameters: str
    salt: Hex32
    digest: Hex64
    until: Timestamp


class ReviewList(Message, frozen=True, kw_only=True):
    """Oldest first. They live in the gate's memory: after its restart who called asks again."""

    items: tuple[ReviewView, ...]


class DecideReview(Message, frozen=True, kw_only=True):
    """A word on the call that has this digest."""

    review: Review
    digest: Hex64


class ReviewDecided(Message, frozen=True, kw_only=True):
    """Where the word stands; an approval counts `until` then, for one call."""

    review: Review
    verdict: Literal["approved", "refused"]
    owner: str
    command: str
    until: Timestamp
    id: RecordId


class TrustCheck(Message, frozen=True, kw_only=True):
    """An action on a target, as the trust model names them."""

    action: Annotated[str, msgspec.Meta(max_length=32)]
    target: Annotated[str, msgspec.Meta(max_length=32)]


class TrustAnswer(Message, frozen=True, kw_only=True):
    """Where the caller stands; gives no permit. Threshold and logit in millionths and 10^-12."""

    allowed: bool
    score: str
    threshold: int
    logit: int
    model: str
    features: trust.Features


class Explain(Message, frozen=True, kw_only=True):
    """Names a command of those that the caller may call; and, of one that proposes witnesses, whom."""

    command: Annotated[str, msgspec.Meta(max_length=64)]
    candidates: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)] = ()


class Part(Message, frozen=True, kw_only=True):
    """What one feature brings: `weight` (10^-6) times `value` (10^-6) is `product` (10^-12)."""

    feature: str
    value: int
    weight: int
    product: int


class Explanation(Message, frozen=True, kw_only=True):
    """A score taken apart: the bias and the products add up to the logit; it allows from `threshold` (10^-6) on. The standing is the lowest
    of `standing_of`, whom the call would propose as witnesses; of nobody, it is the caller's own."""

    command: str
    allowed: bool
    score: str
    logit: int
    threshold: int
    bias: int
    parts: tuple[Part, ...]
    model: str
    as_of: int
    standing_as_of: int
    standing_of: tuple[str, ...] = ()


class TrustStatus(Message, frozen=True, kw_only=True):
    """The model and policy in force."""

    model: trust.TrustModel
    policy: str
    as_of: int


class CommandView(Message, frozen=True, kw_only=True):
    """A command that this caller may call."""

    name: str
    summary: str
    rung: Loa
    needs_owner: bool
    request: dict[str, Any]


class CommandList(Message, frozen=True, kw_only=True):
    """What is listed is callable."""

    items: tuple[CommandView, ...]


class Pong(Message, frozen=True, kw_only=True):
    """Alive."""

    owner_id: str
    loa: Loa


class SystemInfo(Message, frozen=True, kw_only=True):
    """The deployment, its fingerprints and its state."""

    tenant: str
    runtime_id: str
    canon_fingerprint: str
    log_key: str
    sealed: bool
    witnesses: int
    quorum: int | None
    size: int


class RefusalCounts(Message, frozen=True, kw_only=True):
    """What a face refused before the gate, by code; it ends in the next `refusal_summary`."""

    counts: Annotated[dict[str, Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(max_length=128)]


class Reload(Message, frozen=True, kw_only=True):
    """The model in force after a refresh."""

    model: str
    as_of: int


_SESSION = (
    Code.SESSION_INVALID,
    Code.SESSION_EXPIRED,
    Code.SESSION_CLOSED,
    Code.PROOF_MISSING,
    Code.PROOF_INVALID,
)
_APPROVAL = (
    Code.APPROVAL_UNKNOWN,
    Code.APPROVAL_REFUSED,
    Code.APPROVAL_MISMATCH,
    Code.APPROVAL_EXPIRED,
    Code.APPROVAL_USED,
    Code.SELF_APPROVAL,
    Code.APPROVER_INVALID,
)
GATE_REFUSALS = (
    *_SESSION,
    Code.SESSION_MISSING,
    Code.PROOF_STALE,
    Code.PROOF_REPLAYED,
    Code.OWNER_PROOF_NEEDED,
    Code.LICENSE_INVALID,
    Code.PEER_INVALID,
    Code.GRANT_INVALID,
    Code.GRANT_REFUSED,
    Code.LOA_TOO_LOW,
    Code.OUT_OF_SCOPE,
    Code.DENIED_BY_TRUST,
    Code.REVIEW_NEEDED,
    *_APPROVAL,
    Code.GATE_FAULT,
    Code.DISK_LOW,
    Code.RATE_LIMITED,
    Code.UNKNOWN_COMMAND,
)

CHALLENGE = Command(
    name="session/challenge",
    service=SERVICE,
    request=Empty,
    reply=Challenge,
    summary="A nonce to open a session with.",
    action=Action.READ,
    target=Target.PROFILE,
    admission=Admission.OPEN,
    http=Http(method="POST", path="/api/session/challenge"),
)
OPEN = Command(
    name="session/open",
    service=SERVICE,
    request=OpenSession,
    reply=SessionView,
    summary="Open a session with a licence.",
    action=Action.WRITE,
    target=Target.PROFILE,
    admission=Admission.OPEN,
    http=Http(method="POST", path="/api/session/open"),
    refusals=(
        Code.NONCE_INVALID,
        Code.CERTIFICATE_INVALID,
        Code.LICENSE_INVALID,
        Code.WEAK_KEY,
        Code.RATE_LIMITED,
        Code.DISK_LOW,
    ),
)
PEER = Command(
    name="session/peer",
    service=SERVICE,
    request=OpenPeerSession,
    reply=SessionView,
    summary="Open a session as another node.",
    action=Action.WRITE,
    target=Target.PROFILE,
    admission=Admission.OPEN,
    http=Http(method="POST", path="/api/session/peer"),
    refusals=(Code.NONCE_INVALID, Code.PEER_INVALID, Code.SIGNATURE_INVALID, Code.WEAK_KEY, Code.RATE_LIMITED),
)
CLOSE = Command(
    name="session/close",
    service=SERVICE,
    request=SessionCall,
    reply=Empty,
    summary="Close a session; felt at once.",
    action=Action.DELETE,
    target=Target.PROFILE,
    admission=Admission.OPEN,
    scored=False,
    http=Http(method="POST", path="/api/session/close"),
    refusals=_SESSION,
)
AUTHORIZE = Command(
    name="authorize",
    service=SERVICE,
    request=Authorize,
    reply=Authorized,
    summary="Ask the gate; a yes is a permit and a committed decision.",
    action=Action.EXECUTE,
    target=Target.PROFILE,
    admission=Admission.OPEN,
    refusals=GATE_REFUSALS,
)
CHILD = Command(
    name="authorize/child",
    service=SERVICE,
    request=AuthorizeChild,
    reply=Authorized,
    summary="Ask the gate for a call on behalf of the caller of another one.",
    action=Action.EXECUTE,
    target=Target.PROFILE,
    admission=Admission.BUS,
    scopes=1,
    refusals=(
        *GATE_REFUSALS,
        Code.PERMIT_INVALID,
        Code.PERMIT_EXPIRED,
        Code.PERMIT_MISMATCH,
        Code.CALL_UNDECLARED,
    ),
)
APPROVAL_LIST = Command(
    name="approval/list",
    service=SERVICE,
    request=ListReviews,
    reply=ReviewList,
    summary="Calls that wait for a mentor's approval.",
    action=Action.READ,
    target=Target.PROFILE,
    rung=Loa.GUEST,
    http=Http(method="GET", path="/api/approval/list"),
)
_DECIDED: dict[str, object] = {"review": "01900000-0000-7000-8000-000000000000.0", "digest": "0" * 64}
_DECIDING = (
    Code.REVIEW_UNKNOWN,
    Code.APPROVAL_MISMATCH,
    Code.APPROVAL_EXPIRED,
    Code.SELF_APPROVAL,
    Code.APPROVER_INVALID,
)
APPROVE = Command(
    name="approval/approve",
    service=SERVICE,
    request=DecideReview,
    reply=ReviewDecided,
    summary="Approve one call that waits, its very parameters.",
    action=Action.ELEVATION,
    target=Target.CONFIG,
    rung=Loa.MENTOR,
    writes=("approval_decided",),
    http=Http(method="POST", path="/api/approval/approve"),
    refusals=_DECIDING,
    example=_DECIDED,
)
REFUSE = Command(
    name="approval/refuse",
    service=SERVICE,
    request=DecideReview,
    reply=ReviewDecided,
    summary="Refuse one call that waits.",
    action=Action.ELEVATION,
    target=Target.CONFIG,
    rung=Loa.MENTOR,
    writes=("approval_decided",),
    scored=False,
    http=Http(method="POST", path="/api/approval/refuse"),
    refusals=_DECIDING,
    example=_DECIDED,
)
TRUST_CHECK = Command(
    name="trust/check",
    service=SERVICE,
    request=TrustCheck,
    reply=TrustAnswer,
    summary="Where the caller stands for an action on a target.",
    action=Action.READ,
    target=Target.PROFILE,
    rung=Loa.GUEST,
    http=Http(method="POST", path="/api/trust/check"),
    example={"action": "write", "target": "memory"},
)
TRUST_EXPLAIN = Command(
    name="trust/explain",
    service=SERVICE,
    request=Explain,
    reply=Explanation,
    summary="What each feature brings to the score of a command for this caller, now.",
    action=Action.READ,
    target=Target.PROFILE,
    rung=Loa.GUEST,
    http=Http(method="POST", path="/api/trust/explain"),
    refusals=(Code.UNKNOWN_COMMAND,),
    example={"command": "memory/write"},
)
TRUST_STATUS = Command(
    name="trust/status",
    service=SERVICE,
    request=Empty,
    reply=TrustStatus,
    summary="The trust model and policy in force.",
    action=Action.READ,
    target=Target.PROFILE,
    rung=Loa.GUEST,
    http=Http(method="GET", path="/api/trust/status"),
)
COMMAND_LIST = Command(
    name="commands/list",
    service=SERVICE,
    request=Empty,
    reply=CommandList,
    summary="The commands that this caller may call.",
    action=Action.READ,
    target=Target.MODULE,
    rung=Loa.GUEST,
)
PING = Command(
    name="ping",
    service=SERVICE,
    request=Empty,
    reply=Pong,
    summary="Who am I, and are you there?",
    action=Action.READ,
    target=Target.PROFILE,
    rung=Loa.GUEST,
)
SYSTEM_INFO = Command(
    name="system/info",
    service=SERVICE,
    request=Empty,
    reply=SystemInfo,
    summary="The deployment's fingerprints and state.",
    action=Action.READ,
    target=Target.MODULE,
    rung=Loa.GUEST,
)

MODEL_REFRESH = Command(
    name="model/refresh",
    service=SERVICE,
    request=Empty,
    reply=Reload,
    summary="Read the trust model again from the log's head.",
    action=Action.EXECUTE,
    target=Target.CONFIG,
    rung=Loa.ROOT,
    http=Http(method="POST", path="/api/model/refresh"),
)
REPORT = Command(
    name="gate/refusals",
    service=SERVICE,
    request=RefusalCounts,
    reply=Empty,
    summary="What a face refused before the gate, by code.",
    action=Action.WRITE,
    target=Target.AUDIT,
    admission=Admission.BUS,
)

COMMANDS = (
    CHALLENGE,
    OPEN,
    PEER,
    CLOSE,
    AUTHORIZE,
    CHILD,
    APPROVAL_LIST,
    APPROVE,
    REFUSE,
    TRUST_CHECK,
    TRUST_EXPLAIN,
    TRUST_STATUS,
    COMMAND_LIST,
    PING,
    SYSTEM_INFO,
    MODEL_REFRESH,
    REPORT,
)
