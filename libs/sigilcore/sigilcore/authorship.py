"""Who signed a record, checked by its place alone: for readers who see some kinds of a log and the records that govern it.

They can't recompute the tree, nor see the decisions that admitted what they read. What they can hold a record to is the fold of what
governs:

- the key could speak there: it had its role since before this place, and until it or later;
- the key could speak of this kind: Root of `system`, an instance of an author of the kind, the service itself where the kind says so, or
  for `user` the person whom a licence of that time names as owner of both key and record;
- the signature is that key's, over exactly these bytes.

Governing records are judged by the fold itself (`admission.admit_governing`), which sees the quorum too.
"""

from sigilcore import records, signing
from sigilcore.governance import Governance, IssuedLicence, KeyEntry
from sigilcore.record import Header, verify_author
from sigilcore.records import Kind, system
from sigilcore.refusals import Code, Refused


def check(state: Governance, seq: int, header: Header, core_bytes: bytes, subject: str | None) -> None:
    """Check a record's author at its place. `state` has seen all that governs below `seq`; `subject` is whose record it is, None once the
    payload was erased.

    Raises:
        Refused: RECORD_INVALID, KIND_UNKNOWN, KIND_NOT_ALLOWED, KEY_NOT_ALLOWED, SIGNATURE_INVALID.

    """
    core = header.core
    if core.tenant != state.tenant:
        raise Refused(Code.RECORD_INVALID, "another tenant's record", field="$.header.core.tenant")
    kind = records.REGISTRY.get(core.kind)
    if kind is None:
        raise Refused(Code.KIND_UNKNOWN, f"no kind {core.kind!r}", field="$.header.core.kind")
    if core.space != kind.space:
        raise Refused(Code.KIND_NOT_ALLOWED, f"{core.kind} doesn't stand in {core.space}", field="$.header.core.space")
    entry = state.key(header.key_id)
    if entry is None or (kind.space == "user" and entry.role != "instance"):
        # A person's key may be a witness's or Root's besides.
        public = _person(state, seq, header, kind, subject)
    elif _speaks(entry, kind) and _stood(entry, seq, kind):
        public = entry.public
    else:
        raise Refused(Code.KEY_NOT_ALLOWED, f"this key could not write {core.kind} there", field="$.header.key_id")
    verify_author(header, core_bytes, public)


def _speaks(entry: KeyEntry, kind: Kind) -> bool:
    if kind.space == "system":
        return entry.role == "root"
    return entry.role == ("service" if kind.service_signed else "instance") and entry.name in kind.authors


def _stood(entry: KeyEntry, seq: int, kind: Kind) -> bool:
    """The record that ends a key may be the key's own last word; genesis, and a `root_key` by all witnesses, introduce the key that signs
    them."""
    first = kind.payload in (system.Genesis, system.RootKey)
    began = entry.since_seq <= seq if first else entry.since_seq < seq
    return began and (entry.until_seq is None or seq <= entry.until_seq)


def _person(state: Governance, seq: int, header: Header, kind: Kind, subject: str | None) -> bytes:
    """The key of a person whose licence stood there, and whose own record this is."""
    if kind.space == "user":
        for issued in state.licences.values():
            public = _owner_key(issued, header.key_id)
            stood = issued.issued_seq < seq and (issued.revoked_seq is None or seq <= issued.revoked_seq)
            if public is not None and stood and subject in (None, issued.table.owner.id):
                return public
    raise Refused(Code.KEY_NOT_ALLOWED, "the log knows no such key", field="$.header.key_id")


def _owner_key(issued: IssuedLicence, key_id: str) -> bytes | None:
    key = issued.table.owner.key
    if key is None or signing.key_id(bytes.fromhex(key)) != key_id:
        return None
    return bytes.fromhex(key)
