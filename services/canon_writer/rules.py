"""What may be written: the pure part of a commit.

A `Draft` stands on the head of the log and takes calls one after the other; what it has placed is the next batch. Nothing here waits,
reads a clock or a store: what the store knows of these calls was looked up before (`Found`).

Decided here, for each call:

1. A record's own form (`open_call`), before anything is known of the log.
2. Idempotency. An id that stands in the log is answered with its first place if it asks for the same again, else `ID_TAKEN`. This
   comes before admission, because what was admitted once would not be admitted twice: its decision is used and its `prev` is old.
3. Admission against the state of the log (`admission.admit`), with the decision that its link or its call names, and with the earlier
   decisions that the record itself names (`antecedents`).
4. A call with `audit` or `system` records stands or falls whole: the record at fault is refused by its reason, the others by
   `BATCH_REFUSED`, which names it. In a call of `user` records only, a bad one is refused alone.
5. A decision admits one call: its effects, one after the other without anything between, once. So who replays the log can tell.
6. A new key of the log only if this writer can sign with it.
7. While the disk is nearly full, only records that are reserved room (`room`).
8. Time: a record's `ts` stands for the writer's clock when the log is judged again, so it may not lie ahead of it, a decision batch
   bears the time of its decisions, and what isn't admissible by its own `ts` isn't admitted.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence

import msgspec

from services.canon_writer import room
from services.canon_writer.laws import Ref, Row, Use, erases, row_of, storable, thing_of
from sigilcore import admission, antecedents, clock, digest, ids, merkle, note, record
from sigilcore.admission import DecisionRow
from sigilcore.contracts import canon
from sigilcore.decision import DecisionRef
from sigilcore.governance import Governance
from sigilcore.records import audit, system, user
from sigilcore.refusals import Code, Refused

MAX_SUBJECT_BYTES = 512
_NAMING = frozenset({"approval_decided", *audit.OF_DECISIONS})


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call's records, each checked by itself or refused, in the call's order."""

    records: tuple[record.Checked | Refused, ...]
    ids: tuple[str, ...]
    decision: DecisionRef | None = None
    genesis: bool = False

    @property
    def checked(self) -> list[record.Checked]:
        """Those of good form."""
        return [one for one in self.records if isinstance(one, record.Checked)]

    @property
    def whole(self) -> bool:
        """True if its records stand or fall together."""
        return any(one.core.space != "user" for one in self.checked)


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What genesis must say of this deployment; the keystore and the data folder are where it comes from."""

    tenant: str
    runtime_id: str
    services: Mapping[str, str]
    log: str
    bootstrap_token_hash: str


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A record that stands in the log, or will once this draft is committed."""

    seq: int
    checked: record.Checked


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows of the calls: records by their ids, decisions, newest versions of things, and all versions of those that are to
    be erased."""

    known: Mapping[str, Known] = {}
    decisions: Mapping[Ref, DecisionRow] = {}
    thing_heads: Mapping[bytes, str] = {}
    versions: Mapping[bytes, Sequence[str]] = {}


def open_call(request: canon.Append, *, genesis: bool = False) -> Call:
    """Check each record's own form: schema, canonical bytes, hashes, bounds. Needs no state."""
    records = tuple(_checked(signed) for signed in request.records)
    ids = tuple(_id_of(one, signed) for one, signed in zip(records, request.records, strict=True))
    return Call(records=records, ids=ids, decision=request.decision, genesis=genesis)


def proven(call: Call, state: Governance) -> Call:
    """The call with its authors' signatures checked, by the keys that speak now. It is what costs most, and it needs no turn: while one
    commit is under way the next one's signatures are checked. A bad one is left to admission, which says so in its place."""
    return msgspec.structs.replace(call, records=tuple(_proven(one, state) for one in call.records))


def _proven(one: record.Checked | Refused, state: Governance) -> record.Checked | Refused:
    entry = state.key(one.header.key_id) if isinstance(one, record.Checked) else None
    if entry is None or not entry.active or isinstance(one, Refused):
        return one
    try:
        return record.prove_author(one, entry.public)
    except Refused:
        return one


def _unproven(one: record.Checked) -> record.AuthorCheck:
    """Checks a signature, unless it was found good by this very key before."""

    def check(header: record.Header, core_bytes: bytes, public: bytes) -> None:
        if not public or one.proven != public:
            record.verify_author(header, core_bytes, public)

    return check


def ref_of(call: Call, checked: record.Checked) -> Ref | None:
    """The decision that a record stands on: the one it links, else the one its call names."""
    links_one = checked.core.link("decision") is not None
    linked = admission.decision_ref(checked) if links_one else call.decision
    if linked is None or not ids.is_id(linked.record):
        return None
    return linked.record, linked.index


def named_ids(calls: Sequence[tuple[Call, record.Checked]]) -> set[str]:
    """The records whose decisions these name."""
    links = (link for _, one in calls if one.kind.tag in _NAMING for link in antecedents.named(one))
    return {name for link in links if (name := antecedents.record_of(link)) is not None and ids.is_id(name)}


def check_token(token: str, payload: object, token_hash: str) -> None:
    """The one-time token, by its hash in the deployment and in genesis itself; compared in constant time."""
    given = digest.sha256_hex(token.encode("utf-8", "surrogatepass"))
    if not hmac.compare_digest(given, token_hash):
        raise Refused(Code.BOOTSTRAP_REFUSED, "not this deployment's token", field="$.token")
    if not isinstance(payload, system.Genesis):
        raise Refused(Code.BOOTSTRAP_REFUSED, "the first record is genesis", field="$.record")
    if not hmac.compare_digest(given, payload.bootstrap_token_hash):
        raise Refused(Code.BOOTSTRAP_REFUSED, "genesis holds another token's hash", field="$.record.payload")


def check_deployment(payload: system.Genesis, deployment: Deployment) -> None:
    """Genesis speaks of this deployment: its tenant, its runtime, its service keys, its log's key."""
    if (payload.tenant, payload.runtime_id) != (deployment.tenant, deployment.runtime_id):
        raise Refused(Code.BOOTSTRAP_REFUSED, "genesis names another deployment", field="$.record.payload.runtime_id")
    if dict(payload.services) != dict(deployment.services):
        raise Refused(Code.BOOTSTRAP_REFUSED, "genesis names other service keys", field="$.record.payload.services")
    if payload.log != deployment.log:
        raise Refused(Code.BOOTSTRAP_REFUSED, "genesis names another log key", field="$.record.payload.log")


class Draft:
    """The next batch in the making. It moves the state as it goes: if the batch isn't committed, the state must be loaded anew."""

    def __init__(
        self,
        state: Governance,
        size: int,
        found: Found,
        now_ms: int,
        deployment: Deployment,
        *,
        log_signer: Callable[[bytes], object | None] = lambda _: None,
        disk_low: bool = False,
    ) -> None:
        """`log_signer`: whom this writer would sign checkpoints with; a key of the log that it doesn't hold would stop the log."""
        self._disk_low = disk_low
        self.rows: list[Row] = []
        self.uses: list[Use] = []
        self.decisions: list[DecisionRow] = []
        self.leaves: list[bytes] = []
        self._state = state
        self._base = size
        self._found = found
        self._now_ms = now_ms
        self._deployment = deployment
        self._log_signer = log_signer
        self._known: dict[str, Known] = {}
        self._heads: dict[bytes, str] = {}
        self._used: dict[Ref, str] = {}

    def take(self, call: Call) -> tuple[canon.AppendResult, ...]:
        """Place what may stand; one result a record, in the call's order."""
        if call.genesis or not call.whole:
            uses: dict[Ref, int] = {}
            return tuple(self._alone(call, one, name, uses) for one, name in zip(call.records, call.ids, strict=True))
        return self._together(call)

    @property
    def size(self) -> int:
        """The head after what was placed."""
        return self._base + len(self.rows)

    def _alone(self, call: Call, one: record.Checked | Refused, name: str, uses: dict[Ref, int]) -> canon.AppendResult:
        try:
            return self._place(call, one, uses)
        except Refused as refused:
            return canon.AppendResult(id=name, refusal=refused.answer())

    def _together(self, call: Call) -> tuple[canon.AppendResult, ...]:
        mark = len(self.rows), len(self.decisions), len(self.uses)
        heads = dict(self._heads) if any(one.core.space == "user" for one in call.checked) else None
        uses: dict[Ref, int] = {}
        results: list[canon.AppendResult] = []
        try:
            with self._state.tentative():
                results.extend(self._place(call, one, uses) for one in call.records)
        except Refused as refused:
            self._undo(mark, heads, uses)
            return _all_refused(call, len(results), refused)
        return tuple(results)

    def _undo(self, mark: tuple[int, int, int], heads: dict[bytes, str] | None, uses: dict[Ref, int]) -> None:
        rows, decisions, marks = mark
        for row in self.rows[rows:]:
            del self._known[row.id]
        for ref in uses:
            self._used.pop(ref, None)
        if heads is not None:
            self._heads = heads
        del self.rows[rows:], self.leaves[rows:], self.decisions[decisions:], self.uses[marks:]

    def _place(self, call: Call, one: record.Checked | Refused, uses: dict[Ref, int]) -> canon.AppendResult:
        """One record: its first place again, or a new one at the head."""
        if isinstance(one, Refused):
            raise one
        existing = self._known.get(one.core.id) or self._found.known.get(one.core.id)
        if existing is not None:
            return self._again(call, existing, one)
        thing = thing_of(one)
        self._admit(call, one, thing, uses)
        seq = self.size
        self._state.apply(seq, one)
        self._known[one.core.id] = Known(seq=seq, checked=one)
        if thing is not None:
            self._heads[thing] = one.header.hash
        self.rows.append(row_of(one, seq, thing))
        self.leaves.append(merkle.leaf_hash(one.leaf))
        self.decisions.extend(storable(row) for row in admission.decisions_of(one, seq))
        return canon.AppendResult(id=one.core.id, seq=seq, hash=one.header.hash)

    def _again(self, call: Call, existing: Known, one: record.Checked) -> canon.AppendResult:
        old = existing.checked
        if call.genesis and old.header.hash != one.header.hash:
            raise Refused(Code.ALREADY_BOOTSTRAPPED, "the canon has another genesis")
        if not admission.repeats(old, one):
            raise Refused(Code.ID_TAKEN, "this id names another record", field="$.header.core.id")
        if old.header.hash != one.header.hash:
            self._check_known_author(one)
        return canon.AppendResult(id=old.core.id, seq=existing.seq, hash=old.header.hash, existing=True)

    def _check_known_author(self, one: record.Checked) -> None:
        """A rebuilt record is answered only to a key that may speak."""
        entry = self._state.key(one.header.key_id)
        if entry is None or not entry.active:
            raise Refused(Code.KEY_NOT_ALLOWED, "the log doesn't let this key speak now", field="$.header.key_id")
        record.verify_author(one.header, one.core_bytes, entry.public)

    def _admit(self, call: Call, one: record.Checked, thing: bytes | None, uses: dict[Ref, int]) -> None:
        if call.genesis:
            self._admit_genesis(one)
            return
        ref = ref_of(call, one) if one.kind.effect else None
        decided = None if ref is None else self._decided(ref, uses)
        if self._disk_low and not room.is_reserved(one):
            raise Refused(Code.DISK_LOW, "the disk is nearly full; what is left is for revocations and the quorum")
        _check_columns(one)
        _check_time(one, self._now_ms)
        head = None if thing is None else self._heads.get(thing) or self._found.thing_heads.get(thing)
        if isinstance(one.payload, user.Erasure) and thing is not None:
            self._check_erasure(one.payload, thing)
        author = _unproven(one)
        for moment_ms in _moments(one, self._now_ms):
            admission.admit(self._state, one, now_ms=moment_ms, decided=decided, thing_head=head, author=author)
        admission.check_positions(one, self.size)
        antecedents.check(self._state, one, self._antecedent)
        for change in system.changes_in(one.payload):
            if isinstance(change.payload, system.LogKey):
                self._check_held(change.payload, f"{change.path}.vkey")
        if ref is None or decided is None or decided.used_by is not None:
            return
        if ref not in uses:
            self._used[ref] = one.core.id
            self.uses.append(Use(ref=ref, seq=decided.seq, by=one.core.id))
        uses[ref] = self.size

    def _check_held(self, payload: system.LogKey, field: str) -> None:
        if self._log_signer(note.VerifierKey.parse(payload.vkey).public_key) is None:
            raise Refused(Code.KEY_NOT_ALLOWED, "the writer's keystore doesn't hold this key", field=field)

    def _check_erasure(self, payload: user.Erasure, thing: bytes) -> None:
        """It names each payload that will be gone, and no other; what comes between is noticed by the list as by `prev`."""
        versions = list(self._found.versions.get(thing, ()))
        for row in self.rows:
            if row.thing == thing:
                versions = [] if erases(row) else [*versions, row.id]
        if not versions:
            raise Refused(Code.NOT_FOUND, "nothing of this thing is left to erase")
        if list(payload.records) != versions:
            head = self._heads.get(thing) or self._found.thing_heads.get(thing)
            raise Refused(Code.STALE_PREV, "it doesn't list the versions that there are", detail={"head": head})

    def _decided(self, ref: Ref, uses: dict[Ref, int]) -> DecisionRow | None:
        """The decision as this record finds it: used, unless the record before it used it in the same call."""
        row = self._found.decisions.get(ref)
        if row is not None and ref in self._used and uses.get(ref) != self.size - 1:
            return msgspec.structs.replace(row, used_by=self._used[ref])
        return row

    def _antecedent(self, link: str) -> antecedents.Decided | None:
        """An earlier decision, from the record that carries it."""
        name = antecedents.record_of(link) or ""
        known = self._known.get(name) or self._found.known.get(name)
        return None if known is None else dict(antecedents.brought(known.checked)).get(link)

    def _admit_genesis(self, one: record.Checked) -> None:
        if self._state.bootstrapped or self._base != 0 or self.rows:
            raise Refused(Code.ALREADY_BOOTSTRAPPED, "the canon has its genesis")
        admission.check_genesis(one)
        check_deployment(one.payload, self._deployment)


def _check_time(one: record.Checked, now_ms: int) -> None:
    ts_ms = clock.parse_ms(one.core.ts)
    if ts_ms - now_ms > admission.DECISION_SKEW_MS:
        raise Refused(Code.RECORD_INVALID, "ts lies ahead of the writer's clock", field="$.header.core.ts")
    for index, frozen in enumerate(audit.decisions_in(one.payload)):
        if abs(ts_ms - _moment(frozen.chain.audit.ts)) > admission.DECISION_SKEW_MS:
            field = f"$.payload.decisions[{index}].chain.audit.ts"
            raise Refused(Code.STALE_DECISION, "judged at another time than its batch says", field=field)


def _moments(one: record.Checked, now_ms: int) -> tuple[int, ...]:
    """The times by which a record must be admissible: the clock's, and its own. What can only run out is asked of the later one; decisions
    bear times of their own, which `_check_time` holds to the record's."""
    ts_ms = clock.parse_ms(one.core.ts)
    if audit.decisions_in(one.payload):
        return (now_ms,)
    return (now_ms, ts_ms) if one.kind.governs else (max(now_ms, ts_ms),)


def _check_columns(one: record.Checked) -> None:
    """What is stored beside the bytes must fit its column, or one record would keep a whole batch from being written."""
    subject = one.kind.subject(one.payload)
    if len(subject.encode()) > MAX_SUBJECT_BYTES or "\x00" in subject:
        raise Refused(Code.RECORD_INVALID, f"a subject has at most {MAX_SUBJECT_BYTES} bytes, none of them zero")
    if isinstance(one.payload, audit.LicenceIssued) and not ids.is_id(one.payload.license.id):
        raise Refused(Code.RECORD_INVALID, "a licence's id is a UUIDv7", field="$.payload.license.id")


def _moment(text: str) -> int:
    try:
        return clock.parse_ms(text)
    except ValueError as error:
        raise Refused(Code.RECORD_INVALID, "not RFC 3339 UTC milliseconds", field="$.payload") from error


def _checked(signed: record.SignedRecord) -> record.Checked | Refused:
    try:
        return record.check(signed)
    except Refused as refused:
        return refused


def _id_of(one: record.Checked | Refused, signed: record.SignedRecord) -> str:
    """The record's id, or as much of it as can be read of a malformed one."""
    if isinstance(one, record.Checked):
        return one.core.id
    try:
        header, _ = record.open_header(bytes(signed.header))
    except Refused:
        return ""
    return header.core.id


def _all_refused(call: Call, index: int, refused: Refused) -> tuple[canon.AppendResult, ...]:
    """The record at fault by its own reason; the others because of it."""
    others = Refused(
        Code.BATCH_REFUSED,
        f"record {index} was refused: {refused.message}",
        detail={"index": index, "code": str(refused.code), "message": refused.message},
    ).answer()
    return tuple(
        canon.AppendResult(id=name, refusal=refused.answer() if at == index else others)
        for at, name in enumerate(call.ids)
    )


def places(results: Sequence[canon.AppendResult]) -> list[int]:
    """The places that a receipt must prove."""
    return [result.seq for result in results if result.seq is not None]
