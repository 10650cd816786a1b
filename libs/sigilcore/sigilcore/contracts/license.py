"""The license service: bootstrap, and the life of licences."""

from typing import Annotated, Literal

import msgspec

from sigilcore.access import Loa
from sigilcore.contracts.command import Action, Admission, Command, Http, Target
from sigilcore.contracts.common import Cursor, Id, Limit, Message, WaitFor
from sigilcore.licence import Reason
from sigilcore.record_types import Hex32, Hex64, Name, PublicKey, RecordId, Signature, Timestamp
from sigilcore.refusals import Code

SERVICE = "license"
RENEWS = "renews"  # the link from a renewal's record to the licence that it renews
State = Literal["valid", "not yet valid", "expired", "revoked"]
Toml = Annotated[str, msgspec.Meta(max_length=16_384, description="a licence document (TOML)")]


class Bootstrap(Message, frozen=True, kw_only=True):
    """Step 1: token, owner and Root's public key. Step 2: the same, and the draft with Root's signature over it.

    Signing `draft.core` (JCS) with DSSE type `application/vnd.sigil.record.v1+json`; `draft` goes back as it came."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    owner_id: Name
    owner_name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    root_key: PublicKey
    draft: "Draft | None" = None
    signature: Signature | None = None


class Draft(Message, frozen=True, kw_only=True):
    """A prospective record to sign: JCS of core and payload as text, and the salt."""

    core: Annotated[str, msgspec.Meta(max_length=16_384)]
    payload: Annotated[str, msgspec.Meta(max_length=65_536)]
    salt: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class Bootstrapped(Message, frozen=True, kw_only=True):
    """After step 1 the draft; after step 2 the genesis hash and Root's licence."""

    draft: Draft | None = None
    genesis_hash: str | None = None
    license_id: str | None = None
    toml: str | None = None


class RootLicense(Message, frozen=True, kw_only=True):
    """Names the Root that a `root_key` record put in place, by its key; `wait_for` that record's seq."""

    root_key: PublicKey
    wait_for: WaitFor | None = None


class CreateLicense(Message, frozen=True, kw_only=True):
    """Who, which level, until when. `id` and `issued_at` are given by callers that sign the table themselves (mentor)."""

    owner_id: Name
    owner_name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    loa: Loa
    expires_at: Timestamp
    owner_key: PublicKey | None = None
    scope: (
        Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...], msgspec.Meta(max_length=64)]
        | None
    ) = None
    id: Id | None = None
    issued_at: Timestamp | None = None
    root_signature: Signature | None = None


class LicenseCreated(Message, frozen=True, kw_only=True):
    """The sealed document, shown once, and where its issuance stands. A `bearer` document is itself the credential."""

    license_id: RecordId
    toml: Toml
    bearer: bool
    id: RecordId
    hash: Hex64
    seq: int
    renews: RecordId | None = None


class RenewLicense(Message, frozen=True, kw_only=True):
    """The licence to renew, and the new end. All else stays: owner, level, scope, key. `id`, `issued_at` and `root_signature` as in
    `license/create`."""

    license_id: RecordId
    expires_at: Timestamp
    id: Id | None = None
    issued_at: Timestamp | None = None
    root_signature: Signature | None = None


class ReissueLicense(Message, frozen=True, kw_only=True):
    """The document as it was sealed once: nobody here keeps it."""

    license: Annotated[str, msgspec.Meta(max_length=65_536)]


class LicenseReissued(Message, frozen=True, kw_only=True):
    """The same licence under a fresh seal; the presented document counts as before. A `bearer` document is itself the credential."""

    license_id: RecordId
    toml: Toml
    bearer: bool
    seal_key_id: Hex32


class ValidateLicense(Message, frozen=True, kw_only=True):
    """The document to check."""

    license: Annotated[str, msgspec.Meta(max_length=65_536)]


class LicenseValidation(Message, frozen=True, kw_only=True):
    """Whether it counts here and now, and the first reason if it doesn't."""

    valid: bool
    reasons: tuple[Reason, ...]
    loa: Loa | None = None
    owner_id: str | None = None
    owner_name: str | None = None
    expires_at: str | None = None
    key_bound: bool | None = None
    bearer: bool | None = None


class RevokeLicense(Message, frozen=True, kw_only=True):
    """Ends a licence at this position of the log."""

    license_id: RecordId
    reason: Annotated[str, msgspec.Meta(max_length=512)] = ""
    id: Id | None = None


class LicenseRevoked(Message, frozen=True, kw_only=True):
    """Where the revocation stands."""

    license_id: RecordId
    bearer: bool
    id: RecordId
    hash: Hex64
    seq: int


class LicenseView(Message, frozen=True, kw_only=True):
    """A licence as the log knows it, and its state now; never its seal. `renews`: the licence whose place it was made to take."""

    license_id: RecordId
    owner_id: str
    owner_name: str
    loa: Loa
    scope: tuple[str, ...]
    issued_at: str
    expires_at: str
    key_bound: bool
    bearer: bool
    state: State
    issued_seq: int
    revoked_seq: int | None
    renews: RecordId | None


class ListLicenses(Message, frozen=True, kw_only=True):
    """Licences in order of issue; `state`: only those that are in it now."""

    state: State | None = None
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class LicensePage(Message, frozen=True, kw_only=True):
    """A page of licences."""

    items: tuple[LicenseView, ...]
    cursor: str | None


BOOTSTRAP = Command(
    name="license/bootstrap",
    service=SERVICE,
    request=Bootstrap,
    reply=Bootstrapped,
    summary="Make the single Root, once, in two steps.",
    action=Action.ADMINISTER,
    target=Target.SYSTEM,
    admission=Admission.OPEN,
    http=Http(method="POST", path="/api/license/bootstrap"),
    refusals=(
        Code.ALREADY_BOOTSTRAPPED,
        Code.BOOTSTRAP_REFUSED,
        Code.WEAK_KEY,
        Code.SIGNATURE_INVALID,
        Code.RECORD_INVALID,
    ),
)
CREATE = Command(
    name="license/create",
    service=SERVICE,
    request=CreateLicense,
    reply=LicenseCreated,
    summary="Issue a licence.",
    action=Action.ELEVATION,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("license_issued",),
    http=Http(method="POST", path="/api/license/create"),
    refusals=(
        Code.ROOT_IS_SINGLE,
        Code.ROOT_SIGNATURE_NEEDED,
        Code.SIGNATURE_INVALID,
        Code.WEAK_KEY,
        Code.WITNESS_TAKEN,
        Code.ID_TAKEN,
    ),
    example={
        "owner_id": "ada",
        "owner_name": "Ada",
        "loa": "operator",
        "expires_at": "2030-01-01T00:00:00.000Z",
    },
)
RENEW = Command(
    name="license/renew",
    service=SERVICE,
    request=RenewLicense,
    reply=LicenseCreated,
    summary="Issue a licence anew with a later end; the old one lives to its own.",
    action=Action.ELEVATION,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("license_issued",),
    http=Http(method="POST", path="/api/license/renew"),
    refusals=(
        Code.LICENSE_NOT_FOUND,
        Code.LICENSE_REVOKED,
        Code.ROOT_IS_SINGLE,
        Code.ROOT_SIGNATURE_NEEDED,
        Code.SIGNATURE_INVALID,
        Code.ID_TAKEN,
    ),
)
REISSUE = Command(
    name="license/reissue",
    service=SERVICE,
    request=ReissueLicense,
    reply=LicenseReissued,
    summary="A fresh seal, by the license service's key of now, over a valid licence that is presented.",
    action=Action.READ,
    target=Target.PROFILE,
    rung=Loa.GUEST,
    http=Http(method="POST", path="/api/license/reissue"),
    refusals=(Code.LICENSE_INVALID,),
)
VALIDATE = Command(
    name="license/validate",
    service=SERVICE,
    request=ValidateLicense,
    reply=LicenseValidation,
    summary="Check a licence against the log.",
    action=Action.READ,
    target=Target.PROFILE,
    admission=Admission.OPEN,
    http=Http(method="POST", path="/api/license/validate"),
)
REVOKE = Command(
    name="license/revoke",
    service=SERVICE,
    request=RevokeLicense,
    reply=LicenseRevoked,
    summary="End a licence; felt at every gate within a second.",
    action=Action.DELETE,
    target=Target.SYSTEM,
    rung=Loa.ROOT,
    writes=("license_revoked",),
    scored=False,
    http=Http(method="POST", path="/api/license/revoke"),
    refusals=(Code.LICENSE_NOT_FOUND, Code.LICENSE_REVOKED, Code.ROOT_IS_SINGLE),
)
LIST = Command(
    name="license/list",
    service=SERVICE,
    request=ListLicenses,
    reply=LicensePage,
    summary="Licences in order of issue.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.MENTOR,
    http=Http(method="GET", path="/api/license/list"),
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)
ROOT = Command(
    name="license/root",
    service=SERVICE,
    request=RootLicense,
    reply=Bootstrapped,
    summary="The licence of the Root that the log names now, bound to its key.",
    action=Action.READ,
    target=Target.PROFILE,
    admission=Admission.OPEN,
    http=Http(method="POST", path="/api/license/root"),
    refusals=(Code.ROOT_IS_SINGLE, Code.BEYOND_HEAD, Code.NOT_YET),
)

COMMANDS = (BOOTSTRAP, ROOT, CREATE, RENEW, REISSUE, VALIDATE, REVOKE, LIST)
