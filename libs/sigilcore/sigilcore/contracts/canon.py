"""The canon: one pen (`canon_writer`) and its readers (`canon_reader`)."""

from typing import Annotated, Any, Literal

import msgspec

from sigilcore.access import Loa
from sigilcore.contracts.command import Action, Admission, Command, Http, Target
from sigilcore.contracts.common import Cursor, Empty, Limit, Message, PositiveSeq, WaitFor
from sigilcore.decision import DecisionRef
from sigilcore.record import PlacedRecord, SignedRecord
from sigilcore.record_types import Hex64, KindTag, Name, RecordId
from sigilcore.refusals import Code, Refusal
from sigilcore.witnessed import Standing

WRITER = "canon_writer"
READER = "canon_reader"


class Append(Message, frozen=True, kw_only=True):
    """One call's records, each built and signed by its author. `decision` admits the call's effects, all of them, once."""

    records: Annotated[tuple[SignedRecord, ...], msgspec.Meta(min_length=1, max_length=500)]
    decision: DecisionRef | None = None


class RangeProof(Message, frozen=True, kw_only=True):
    """Places of consecutive leaves [first, first+count) in the tree of a checkpoint; for one leaf it is RFC 6962's audit path."""

    first: int
    count: int
    size: int
    hashes: tuple[str, ...]


class AppendResult(Message, frozen=True, kw_only=True):
    """One record's fate: its place, or why not. `existing` when this id had been written before."""

    id: str
    seq: int | None = None
    hash: str | None = None
    existing: bool = False
    refusal: Refusal | None = None


class Appended(Message, frozen=True, kw_only=True):
    """The receipt: results in the call's order, the signed checkpoint, and proofs that cover every placed record."""

    results: tuple[AppendResult, ...]
    checkpoint: str
    proofs: tuple[RangeProof, ...]


class BootstrapAppend(Message, frozen=True, kw_only=True):
    """Record 0, with the one-time token that its payload holds the hash of."""

    token: str
    record: SignedRecord


class Get(Message, frozen=True, kw_only=True):
    """By exactly one of id, hash or seq; `index` picks one decision of a batch."""

    id: RecordId | None = None
    hash: Hex64 | None = None
    seq: PositiveSeq | None = None
    wait_for: WaitFor | None = None


class RecordView(Message, frozen=True, kw_only=True):
    """A record as a reader shows it, verified before it is shown. `witnessed`: whether enough cosigners have signed a checkpoint that
    covers it."""

    seq: int
    header: dict[str, Any]
    payload: Any
    salt: str | None
    witnessed: Standing = "not required"


class ListRecords(Message, frozen=True, kw_only=True):
    """Records in order of seq, by space, kind, subject and time."""

    space: Literal["user", "system", "audit"] | None = None
    kind: KindTag | None = None
    subject: Name | None = None
    since: Annotated[str, msgspec.Meta(max_length=24)] | None = None
    until: Annotated[str, msgspec.Meta(max_length=24)] | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class CorruptAt(Message, frozen=True, kw_only=True):
    """A position whose bytes don't verify; shown, never skipped in silence."""

    seq: int
    reason: str


class RecordPage(Message, frozen=True, kw_only=True):
    """A page of records; `cursor` is null at the end."""

    items: tuple[RecordView, ...]
    corrupt: tuple[CorruptAt, ...]
    cursor: str | None


class AuditGet(Message, frozen=True, kw_only=True):
    """`id` is a record's id, or `<record id>.<index>` for one decision of a batch."""

    id: Annotated[str, msgspec.Meta(min_length=36, max_length=40)]
    wait_for: WaitFor | None = None


class Prove(Message, frozen=True, kw_only=True):
    """A bundle for one record that verifies offline."""

    id: RecordId


class Bundle(Message, frozen=True, kw_only=True):
    """All that `sigil verify` needs: the record, its tlog-proof, the genesis header and payload, the log's key."""

    format: Literal["sigil-bundle/1"]
    record: dict[str, Any]
    proof: Annotated[str, msgspec.Meta(description="a C2SP tlog-proof file")]
    genesis: dict[str, Any]
    evidence: Annotated[
        tuple[dict[str, Any], ...],
        msgspec.Meta(
            description="records that introduce the author's key: instance_opened, or the system records before"
        ),
    ]
    log: Annotated[
        tuple[dict[str, Any], ...],
        msgspec.Meta(
            description="the system records up to the one that named the log's key, when it isn't genesis's that signed the checkpoint"
        ),
    ] = ()
    witnessed: Annotated[
        Standing,
        msgspec.Meta(description="the reader's word; the proof's checkpoint carries the cosignatures that show it"),
    ] = "not required"


class Consistency(Message, frozen=True, kw_only=True):
    """Two sizes of the tree."""

    old: PositiveSeq
    new: PositiveSeq | None = None


class ConsistencyProof(Message, frozen=True, kw_only=True):
    """RFC 6962 consistency proof, hashes in base64."""

    old: int
    new: int
    hashes: tuple[str, ...]


class Grown(Message, frozen=True, kw_only=True):
    """A consistency proof with the roots it stands between, for who collects cosignatures; all in base64."""

    old: int
    old_root: str
    new: int
    new_root: str
    hashes: tuple[str, ...]


class Checkpoint(Message, frozen=True, kw_only=True):
    """The newest signed checkpoint (a C2SP signed note). `witnessed`: the newest one with enough cosignatures, and with them; null while
    there is none, and where the policy asks for none."""

    note: str
    sealed: bool
    bootstrapped: bool
    witnessed: str | None = None


class Cosign(Message, frozen=True, kw_only=True):
    """Cosignature lines for the checkpoint of this size, as cosigners answered them."""

    size: PositiveSeq
    lines: Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]


class Cosigned(Message, frozen=True, kw_only=True):
    """What stands now: how many of the policy's cosigners have signed the checkpoint of this size, and how many it needs."""

    size: int
    have: int
    need: int


class Beyond(Message, frozen=True, kw_only=True):
    """A checkpoint of this log that somebody shows, as a signed note."""

    note: Annotated[str, msgspec.Meta(min_length=1, max_length=65_536)]


class Judged(Message, frozen=True, kw_only=True):
    """The size of the writer's log, and why it writes no more, if it doesn't."""

    size: int
    read_only: str | None


class LogPart(Message, frozen=True, kw_only=True):
    """A tile's or bundle's path below `/log/<tenant>/`."""

    path: Annotated[str, msgspec.Meta(max_length=128)]


class LogBytes(Message, frozen=True, kw_only=True):
    """The bytes at that path, base64."""

    body: bytes


class Events(Message, frozen=True, kw_only=True):
    """Placed records from a seq on, as the change stream holds them."""

    first: PositiveSeq
    limit: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 500
    kinds: tuple[str, ...] = ()


class EventsOf(Message, frozen=True, kw_only=True):
    """As `Events`; which kinds is said by the scope that it is asked of, and so by a bus permission."""

    first: PositiveSeq
    limit: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 500


class EventPage(Message, frozen=True, kw_only=True):
    """Placed records in order; `head` is the log's size when read; `next` the seq to ask from. `checkpoint`: the newest signed
    checkpoint whose size is above `first` and at most `next`, for who recomputes the tree; null when there is none in the page."""

    items: tuple[PlacedRecord, ...]
    head: int
    next: int
    checkpoint: str | None = None


class Refill(Message, frozen=True, kw_only=True):
    """What a refill of the change stream did."""

    published: int
    stream_last: int
    head: int


class Restored(Message, frozen=True, kw_only=True):
    """What was brought back of a log that was set back: so many records, up to this size. `left`: records that survive after it and that
    no signed checkpoint covers, so they can't be brought back; while there are any, the writer doesn't write."""

    restored: int
    size: int
    left: int


class History(Message, frozen=True, kw_only=True):
    """Every version of one thing: by any version's record id, or by kind and key (and owner, if it isn't the caller); of a system kind,
    by kind alone, those among several changes included."""

    id: RecordId | None = None
    kind: KindTag | None = None
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    owner: Name | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class Diff(Message, frozen=True, kw_only=True):
    """Two versions of one thing, or two records of one system kind, by id; without `old`, the version before `new`."""

    new: RecordId
    old: RecordId | None = None
    wait_for: WaitFor | None = None


class Differs(Message, frozen=True, kw_only=True):
    """One line of a difference: a path in the payload, and the values before and after."""

    path: str
    old: Any
    new: Any


class Difference(Message, frozen=True, kw_only=True):
    """What changed from one version to another; `old_seq` is null where there is no version before."""

    old_seq: int | None
    new_seq: int
    lines: tuple[Differs, ...]


_APPEND_REFUSALS = (
    Code.RECORD_INVALID,
    Code.HEADER_TOO_LARGE,
    Code.KIND_UNKNOWN,
    Code.KIND_NOT_ALLOWED,
    Code.SIGNATURE_INVALID,
    Code.KEY_NOT_ALLOWED,
    Code.ID_TAKEN,
    Code.STALE_PREV,
    Code.STALE_DECISION,
    Code.DECISION_UNKNOWN,
    Code.DECISION_USED,
    Code.DECISION_MISMATCH,
    Code.BATCH_REFUSED,
    Code.QUORUM_NOT_SATISFIED,
    Code.BUSY,
    Code.DISK_LOW,
    Code.READ_ONLY,
)

APPEND = Command(
    name="canon/append",
    service=WRITER,
    request=Append,
    reply=Appended,
    summary="Append one call's signed records.",
    action=Action.WRITE,
    target=Target.CANON,
    admission=Admission.AUTHOR,
    refusals=_APPEND_REFUSALS,
)
BOOTSTRAP = Command(
    name="canon/bootstrap",
    service=WRITER,
    request=BootstrapAppend,
    reply=Appended,
    summary="Commit record 0.",
    action=Action.ADMINISTER,
    target=Target.SYSTEM,
    admission=Admission.AUTHOR,
    refusals=(*_APPEND_REFUSALS, Code.ALREADY_BOOTSTRAPPED, Code.BOOTSTRAP_REFUSED),
)
GET = Command(
    name="canon/get",
    service=READER,
    request=Get,
    reply=RecordView,
    summary="One record, verified before it is shown.",
    action=Action.READ,
    target=Target.CANON,
    rung=Loa.OBSERVER,
    refusals=(Code.NOT_FOUND, Code.CORRUPT_RECORD, Code.BEYOND_HEAD, Code.NOT_YET),
)
LIST = Command(
    name="canon/list",
    service=READER,
    request=ListRecords,
    reply=RecordPage,
    summary="Records in order, by space, kind, subject and time.",
    action=Action.READ,
    target=Target.CANON,
    rung=Loa.OBSERVER,
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)
AUDIT_GET = Command(
    name="audit/get",
    service=READER,
    request=AuditGet,
    reply=RecordView,
    summary="An audit record, or one decision of a batch.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/audit/{id}"),
    refusals=(Code.NOT_FOUND, Code.CORRUPT_RECORD, Code.BEYOND_HEAD, Code.NOT_YET),
)
AUDIT_LIST = Command(
    name="audit/list",
    service=READER,
    request=ListRecords,
    reply=RecordPage,
    summary="Audit records in order.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.MENTOR,
    http=Http(method="GET", path="/api/audit/list"),
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)
PROOF = Command(
    name="canon/proof",
    service=READER,
    request=Prove,
    reply=Bundle,
    summary="A bundle that proves one record offline.",
    action=Action.READ,
    target=Target.CANON,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/canon/proof/{id}"),
    refusals=(Code.NOT_FOUND, Code.CORRUPT_RECORD),
)
CONSISTENCY = Command(
    name="canon/consistency",
    service=READER,
    request=Consistency,
    reply=ConsistencyProof,
    summary="Proof that one tree continues another.",
    action=Action.READ,
    target=Target.CANON,
    rung=Loa.GUEST,
    refusals=(Code.BEYOND_HEAD,),
)
CHECKPOINT = Command(
    name="log/checkpoint",
    service=READER,
    request=Empty,
    reply=Checkpoint,
    summary="The newest signed checkpoint.",
    action=Action.READ,
    target=Target.CANON,
    admission=Admission.OPEN,
)
GROWN = Command(
    name="log/consistency",
    service=READER,
    request=Consistency,
    reply=Grown,
    summary="Proof that one tree continues another, with both roots.",
    action=Action.READ,
    target=Target.CANON,
    admission=Admission.BUS,
    refusals=(Code.BEYOND_HEAD,),
)
COSIGN = Command(
    name="canon/cosign",
    service=WRITER,
    request=Cosign,
    reply=Cosigned,
    summary="Keep cosignatures of a checkpoint; each is verified against the policy in force.",
    action=Action.WRITE,
    target=Target.CANON,
    admission=Admission.BUS,
    refusals=(Code.SIGNATURE_INVALID, Code.KEY_NOT_ALLOWED, Code.NOT_FOUND),
)
BEYOND = Command(
    name="canon/beyond",
    service=WRITER,
    request=Beyond,
    reply=Judged,
    summary="Show the writer a checkpoint beyond its log; signed by the log's own key, it ends the writing.",
    action=Action.WRITE,
    target=Target.CANON,
    admission=Admission.BUS,
    refusals=(Code.SIGNATURE_INVALID,),
)
TILE = Command(
    name="log/tile",
    service=READER,
    request=LogPart,
    reply=LogBytes,
    summary="A hash tile of the log.",
    action=Action.READ,
    target=Target.CANON,
    admission=Admission.OPEN,
    refusals=(Code.NOT_FOUND,),
)
ENTRIES = Command(
    name="log/entries",
    service=READER,
    request=LogPart,
    reply=LogBytes,
    summary="An entry bundle of the log: sealed headers, which tell who was active.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.MENTOR,
    refusals=(Code.NOT_FOUND,),
)
EVENTS = Command(
    name="canon/events",
    service=READER,
    request=Events,
    reply=EventPage,
    summary="Placed records from a seq on: how folds start and fill holes.",
    action=Action.READ,
    target=Target.CANON,
    admission=Admission.BUS,
    refusals=(Code.BEYOND_HEAD,),
)
EVENTS_OF = Command(
    name="canon/events_of",
    service=READER,
    request=EventsOf,
    reply=EventPage,
    summary="Placed records of one space and kind from a seq on: for consumers outside the house.",
    action=Action.READ,
    target=Target.CANON,
    admission=Admission.BUS,
    refusals=(Code.BEYOND_HEAD,),
    scopes=2,
)
REFILL = Command(
    name="canon/refill",
    service=WRITER,
    request=Empty,
    reply=Refill,
    summary="Publish again whatever the change stream lacks.",
    action=Action.ADMINISTER,
    target=Target.SYSTEM,
    admission=Admission.BUS,
    refusals=(Code.READ_ONLY,),
)
RESTORE = Command(
    name="canon/restore",
    service=WRITER,
    request=Empty,
    reply=Restored,
    summary="Bring back from the change stream what a set-back database lacks.",
    action=Action.ADMINISTER,
    target=Target.SYSTEM,
    admission=Admission.BUS,
    refusals=(Code.READ_ONLY, Code.CORRUPT_RECORD, Code.BUSY),
    longest_run_s=3600,
)
HISTORY = Command(
    name="canon/history",
    service=READER,
    request=History,
    reply=RecordPage,
    summary="All versions of one thing, newest first.",
    action=Action.READ,
    target=Target.CANON,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/canon/history"),
    refusals=(Code.NOT_FOUND, Code.BEYOND_HEAD, Code.NOT_YET),
)
DIFF = Command(
    name="canon/diff",
    service=READER,
    request=Diff,
    reply=Difference,
    summary="What changed from one version of a thing to another.",
    action=Action.READ,
    target=Target.CANON,
    rung=Loa.OBSERVER,
    http=Http(method="GET", path="/api/canon/diff"),
    refusals=(Code.NOT_FOUND, Code.CORRUPT_RECORD, Code.BEYOND_HEAD, Code.NOT_YET),
)

COMMANDS = (
    APPEND,
    BOOTSTRAP,
    REFILL,
    RESTORE,
    GET,
    LIST,
    HISTORY,
    DIFF,
    AUDIT_GET,
    AUDIT_LIST,
    PROOF,
    CONSISTENCY,
    CHECKPOINT,
    GROWN,
    COSIGN,
    BEYOND,
    TILE,
    ENTRIES,
    EVENTS,
    EVENTS_OF,
)
