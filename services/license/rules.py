"""What the license service decides: which licence may be issued, which revoked, and what is told of them.

Invariants:

1. Root is single: no request makes a second one, ends it, or gives a mentor its key or its name.
2. A mentor has a key of its own, and Root's own signature stands under exactly the table that is issued.
3. A licence ends within ten years, and its end lies ahead when it is issued. A renewal changes nothing but the end, to a later one.
4. What is told of a licence comes from the log; a seal is never kept, never listed, and only ever answered to who asked for it.
5. Claims of a presented document are told back only if the log knows that very document.
"""

import re
from typing import Final

import msgspec

from sigilcore import admission, clock, decision, ids, licence, peers, signing
from sigilcore.access import Loa
from sigilcore.contracts import house
from sigilcore.contracts import license as wire
from sigilcore.contracts.common import cursor_number
from sigilcore.governance import Governance, IssuedLicence
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

LONGEST_LIFE_MS: Final = 3_652 * 86_400_000
"""Ten years: long enough for Root, short enough that a forgotten licence ends."""

OLDEST_TABLE_MS: Final = 86_400_000
"""A day for Root to carry a table to its key and back; a licence is not dated into a past that it wasn't part of."""

EVERYTHING: Final = ("*",)
_PATTERN: Final = re.compile(r"\*|[a-z0-9_.-]+(/[a-z0-9_.-]+)*(/\*)?")
_KNOWN: Final = frozenset({licence.Reason.NOT_YET_VALID, licence.Reason.EXPIRED, licence.Reason.REVOKED})


def table(state: Governance, request: wire.CreateLicense, *, licence_id: str, now_ms: int) -> licence.LicenceTable:
    """The table that this request asks for, or the first reason why it can't be issued.

    An id that the log knows gets its table of then, whatever has become too old or too late since: whether this is the very same call is
    the writer's to know, and an answer that was lost can be heard again."""
    if request.loa is Loa.ROOT:
        raise Refused(Code.ROOT_IS_SINGLE, "Root comes from genesis only", field="$.loa")
    known = state.issued(licence_id)
    if known is not None:
        return known.table
    _check_owner(state, request)
    for index, pattern in enumerate(request.scope or ()):
        if not _PATTERN.fullmatch(pattern):
            raise Refused(Code.BAD_INPUT, "a name, a family such as memory/*, or *", field=f"$.scope[{index}]")
    issued_ms, expires_ms = _life(request, now_ms)
    made = licence.LicenceTable(
        id=licence_id,
        owner=licence.Owner(id=request.owner_id, name=request.owner_name, key=request.owner_key),
        loa=request.loa,
        scope=EVERYTHING if request.scope is None else request.scope,
        issued_at=clock.format_ms(issued_ms),
        expires_at=clock.format_ms(expires_ms),
        issuer=house.origin(state.runtime_id, state.tenant),
        version=1,
        bindings=licence.Bindings(runtime_id=state.runtime_id, canon_fingerprint=state.genesis_hash),
    )
    _check_root_signature(state, request, made)
    return made


def renewal(state: Governance, request: wire.RenewLicense, *, licence_id: str, now_ms: int) -> licence.LicenceTable:
    """The table of a renewal, or the first reason against it."""
    known = state.issued(licence_id)
    if known is not None:
        return known.table
    old = check_revocable(state, request.license_id).table
    if _time(request.expires_at, "$.expires_at") <= clock.parse_ms(old.expires_at):
        raise Refused(Code.BAD_INPUT, f"a renewal ends later than {old.expires_at}", field="$.expires_at")
    asked = wire.CreateLicense(
        owner_id=old.owner.id,
        owner_name=old.owner.name,
        owner_key=old.owner.key,
        loa=old.loa,
        scope=old.scope,
        expires_at=request.expires_at,
        id=request.id,
        issued_at=request.issued_at,
        root_signature=request.root_signature,
    )
    return table(state, asked, licence_id=licence_id, now_ms=now_ms)


def _check_owner(state: Governance, request: wire.CreateLicense) -> None:
    if peers.is_peer(request.owner_id):
        raise Refused(Code.BAD_INPUT, f"names with {peers.OWNER_PREFIX} are peers'", field="$.owner_id")
    if request.owner_key is not None:
        signing.strong_key(request.owner_key, "$.owner_key")
    if request.loa is Loa.MENTOR:
        _check_mentor(state, request)
    if request.owner_key is not None:
        admission.check_one_name(state, request.owner_key, request.owner_id, "$.owner_key")


def _check_mentor(state: Governance, request: wire.CreateLicense) -> None:
    if request.owner_key is None:
        raise Refused(Code.BAD_INPUT, "a mentor licence is bound to the mentor's own key", field="$.owner_key")
    if state.was_root(bytes.fromhex(request.owner_key)):
        raise Refused(Code.ROOT_IS_SINGLE, "a mentor has a key of its own, not Root's", field="$.owner_key")
    if request.owner_id == state.root.owner_id:
        raise Refused(Code.ROOT_IS_SINGLE, "Root is no mentor", field="$.owner_id")


def _life(request: wire.CreateLicense, now_ms: int) -> tuple[int, int]:
    issued_ms = now_ms if request.issued_at is None else _time(request.issued_at, "$.issued_at")
    expires_ms = _time(request.expires_at, "$.expires_at")
    if issued_ms < now_ms - OLDEST_TABLE_MS:
        raise Refused(Code.BAD_INPUT, "issued_at is more than a day ago", field="$.issued_at")
    if expires_ms <= max(now_ms, issued_ms):
        raise Refused(Code.BAD_INPUT, "expires_at lies in the future and after issued_at", field="$.expires_at")
    if expires_ms - now_ms > LONGEST_LIFE_MS:
        raise Refused(Code.BAD_INPUT, "a licence ends within ten years", field="$.expires_at")
    return issued_ms, expires_ms


def _check_root_signature(state: Governance, request: wire.CreateLicense, made: licence.LicenceTable) -> None:
    """Needed for mentors; checked wherever it is given."""
    if request.root_signature is None:
        if request.loa is Loa.MENTOR:
            raise Refused(
                Code.ROOT_SIGNATURE_NEEDED,
                "Root signs a mentor licence itself; repeat the call with the draft's id and issued_at",
                field="$.root_signature",
                detail={"draft": msgspec.to_builtins(made)},
            )
        return
    if request.id is None or request.issued_at is None:
        raise Refused(Code.BAD_INPUT, "a signed table names its id and issued_at", field="$.root_signature")
    if not licence.root_signed(made, request.root_signature, bytes.fromhex(state.root.key)):
        raise Refused(Code.SIGNATURE_INVALID, "not Root's signature over exactly this table", field="$.root_signature")


def issuance(
    made: licence.LicenceTable, *, seal_key_id: str, root_signature: str | None, request: decision.Request | None
) -> audit.LicenceIssued:
    """What the log keeps of an issued licence: everything but its seal."""
    return audit.LicenceIssued(
        license=made,
        content_hash=licence.content_hash(made),
        seal_key_id=seal_key_id,
        root_signature=root_signature,
        request=request,
    )


def issuance_id(licence_id: str) -> str:
    """The id of the record that issues a licence, so that one licence is issued once."""
    return ids.derive(licence_id, "issued")


def licence_id(request: wire.CreateLicense | wire.RenewLicense) -> str:
    """The caller's id, or a new one."""
    return ids.new() if request.id is None else checked_id(request.id)


def checked_id(given: str) -> str:
    """A caller's id, if it is a UUIDv7."""
    if not ids.is_id(given):
        raise Refused(Code.BAD_INPUT, "id is a UUIDv7", field="$.id")
    return given


def check_revocable(state: Governance, asked: str) -> IssuedLicence:
    """The licence, if it may be revoked or renewed now."""
    entry = state.issued(asked)
    if entry is None:
        raise Refused(Code.LICENSE_NOT_FOUND, "the log never issued it", field="$.license_id")
    if entry.table.loa is Loa.ROOT:
        raise Refused(Code.ROOT_IS_SINGLE, "Root's licence stays as it is", field="$.license_id")
    if entry.revoked_seq is not None:
        raise Refused(
            Code.LICENSE_REVOKED,
            f"revoked at seq {entry.revoked_seq}",
            field="$.license_id",
            detail={"seq": entry.revoked_seq},
        )
    return entry


def revocation(request: wire.RevokeLicense, asked: decision.Request) -> audit.LicenceRevoked:
    """What the log keeps of a revocation."""
    return audit.LicenceRevoked(license_id=request.license_id, reason=request.reason, request=asked)


def reissued(state: Governance, found: licence.Validation) -> licence.LicenceTable:
    """The table to seal afresh: of a licence that is valid here and now, as the log holds it."""
    if found.document is None or not found.valid:
        reason = found.reasons[0]
        raise Refused(
            Code.LICENSE_INVALID,
            f"the presented licence doesn't count: {reason}",
            field="$.license",
            detail={"reasons": list(found.reasons)},
        )
    entry = state.issued(found.document.license.id)
    assert entry is not None, "a valid licence was issued"
    return entry.table


def validation(found: licence.Validation) -> wire.LicenseValidation:
    """The answer about a presented document."""
    document = found.document
    if document is None or not _KNOWN.issuperset(found.reasons):
        return wire.LicenseValidation(valid=False, reasons=found.reasons)
    made = document.license
    return wire.LicenseValidation(
        valid=found.valid,
        reasons=found.reasons,
        loa=made.loa,
        owner_id=made.owner.id,
        owner_name=made.owner.name,
        expires_at=made.expires_at,
        key_bound=made.key_bound,
        bearer=not made.key_bound,
    )


def page(
    state: Governance, *, cursor: str | None, limit: int, now_ms: int, only: wire.State | None = None
) -> wire.LicensePage:
    """Licences in order of issue, from the one after `cursor` (an issuing seq)."""
    after = -1 if cursor is None else cursor_number(cursor)
    entries = sorted(
        (entry for entry in state.licences.values() if entry.issued_seq > after), key=lambda entry: entry.issued_seq
    )
    entries = [entry for entry in entries if only in {None, standing(entry, now_ms)}]
    shown = entries[:limit]
    more = len(entries) > limit
    return wire.LicensePage(
        items=tuple(view(entry, now_ms) for entry in shown), cursor=str(shown[-1].issued_seq) if more else None
    )


def standing(entry: IssuedLicence, now_ms: int) -> wire.State:
    """A licence's state now; what was revoked stays so, also when its time is over."""
    if entry.revoked_seq is not None:
        return "revoked"
    if now_ms < clock.parse_ms(entry.table.issued_at):
        return "not yet valid"
    return "expired" if now_ms >= clock.parse_ms(entry.table.expires_at) else "valid"


def view(entry: IssuedLicence, now_ms: int) -> wire.LicenseView:
    """A licence as the log knows it."""
    made = entry.table
    return wire.LicenseView(
        license_id=made.id,
        owner_id=made.owner.id,
        owner_name=made.owner.name,
        loa=made.loa,
        scope=made.scope,
        issued_at=made.issued_at,
        expires_at=made.expires_at,
        key_bound=made.key_bound,
        bearer=not made.key_bound,
        state=standing(entry, now_ms),
        issued_seq=entry.issued_seq,
        revoked_seq=entry.revoked_seq,
        renews=entry.renews,
    )


def _time(text: str, field: str) -> int:
    try:
        return clock.parse_ms(text)
    except ValueError as error:
        raise Refused(Code.BAD_INPUT, "RFC 3339, UTC, milliseconds, Z", field=field) from error
