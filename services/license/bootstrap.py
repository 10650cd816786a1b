"""How a deployment gets its one Root: the draft of record 0, what may come back of it, and the licence that follows it, or a `root_key`.

Invariants:

1. Nothing is made without the one-time token; it is compared by hash, in constant time.
2. What Root signs is exactly what this deployment would have drafted: every field of the payload is compared, none is taken from the
   request on trust.
3. Everything after genesis is derived from it, so a bootstrap that broke off anywhere ends in the same licence when it is repeated
   with the same token, owner and key; and anything else finds the door closed.

The licence is bound to Root's key, so answering it again to the same key tells nothing that could be used without that key.
"""

import hmac
from typing import Final

from services.license import rules
from sigilcore import canonical, clock, difference, digest, drafts, ids, licence, peers, policy, record, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import house
from sigilcore.contracts import license as wire
from sigilcore.contracts.quorum import RootSigned
from sigilcore.governance import Governance
from sigilcore.records import system
from sigilcore.refusals import Code, Refused
from sigilrun.settings_sections import DeploymentFile

OLDEST_DRAFT_MS: Final = 86_400_000
"""A day to carry the draft to Root's key and back."""

NEWEST_DRAFT_MS: Final = 120_000
"""Two minutes of difference between clocks."""

CORPUS_LICENCES: Final = (
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "PDDL-1.0",
    "Unlicense",
)
"""SPDX names whose texts may be imported and quoted with their source."""


def token_hash(token: str) -> str:
    """What is kept of the one-time token."""
    return digest.sha256_hex(token.encode())


def check_token(token: str, expected_hash: str) -> None:
    """Refuse any other token, in a time that tells nothing."""
    if not hmac.compare_digest(token_hash(token), expected_hash):
        raise Refused(Code.BOOTSTRAP_REFUSED, "not this deployment's bootstrap token", field="$.token")


def genesis(request: wire.Bootstrap, deployment: DeploymentFile, expected_hash: str) -> system.Genesis:
    """The payload of record 0 for this owner on this deployment."""
    if peers.is_peer(request.owner_id):
        raise Refused(Code.BAD_INPUT, f"names with {peers.OWNER_PREFIX} are peers'", field="$.owner_id")
    signing.strong_key(request.root_key, "$.root_key")
    if request.root_key in deployment.services.values():
        raise Refused(Code.BOOTSTRAP_REFUSED, "a service's key is not a person's", field="$.root_key")
    return system.Genesis(
        format="sigil/1",
        tenant=deployment.tenant,
        runtime_id=deployment.runtime_id,
        root=system.RootIdentity(owner_id=request.owner_id, name=request.owner_name, key=request.root_key),
        services=deployment.services,
        log=deployment.log,
        bootstrap_token_hash=expected_hash,
        model=trust.DEFAULT_MODEL,
        policy=policy.FIRST_POLICY,
        modules=(),
        corpus_licences=CORPUS_LICENCES,
    )


def draft(payload: system.Genesis, *, record_id: str, now_ms: int, salt: bytes) -> wire.Draft:
    """Step 1: record 0, for Root to sign."""
    return drafts.made(
        "genesis", payload, id=record_id, tenant=payload.tenant, ts=clock.format_ms(now_ms), prev=None, salt=salt
    )


def accepted(request: wire.Bootstrap, expected: system.Genesis, now_ms: int) -> record.Checked:
    """Step 2: the signed record 0, if it is what step 1 would draft and Root signed it."""
    if request.draft is None or request.signature is None:
        raise Refused(Code.BAD_INPUT, "draft and signature come together", field="$.signature")
    parts = RootSigned(
        core=request.draft.core, payload=request.draft.payload, salt=request.draft.salt, sig=request.signature
    )
    checked = drafts.assembled(parts, bytes.fromhex(expected.root.key), field="$.draft")
    _check_core(checked, expected, now_ms)
    if checked.payload_bytes != canonical.of(expected):
        lines = difference.between(expected, checked.payload)
        where = lines[0].path[1:] if lines else ""
        raise Refused(Code.RECORD_INVALID, "not what this deployment drafts", field=f"$.draft.payload{where}")
    record.verify_author(checked.header, checked.core_bytes, bytes.fromhex(expected.root.key))
    return checked


def _check_core(checked: record.Checked, expected: system.Genesis, now_ms: int) -> None:
    core = checked.core
    if core.kind != "genesis":
        raise Refused(Code.RECORD_INVALID, "record 0 is genesis", field="$.draft.core.kind")
    if core.tenant != expected.tenant:
        raise Refused(Code.RECORD_INVALID, f"this log is {expected.tenant}'s", field="$.draft.core.tenant")
    if core.links or core.prev is not None:
        raise Refused(Code.RECORD_INVALID, "genesis has no past and no links", field="$.draft.core.prev")
    if not now_ms - OLDEST_DRAFT_MS <= clock.parse_ms(core.ts) <= now_ms + NEWEST_DRAFT_MS:
        raise Refused(Code.RECORD_INVALID, "the draft is over a day old; begin again", field="$.draft.core.ts")


def check_resumes(request: wire.Bootstrap, state: Governance) -> None:
    """After genesis: the same token, owner and key may hear the end of their own bootstrap again; nobody else begins one."""
    assert state.genesis is not None
    same_token = hmac.compare_digest(token_hash(request.token), state.genesis.bootstrap_token_hash)
    asked = system.RootIdentity(owner_id=request.owner_id, name=request.owner_name, key=request.root_key)
    if not same_token or asked != state.root or len(state.roots) > 1:
        raise Refused(Code.ALREADY_BOOTSTRAPPED, "Root exists and is single for ever")


def check_root(request: wire.RootLicense, state: Governance) -> None:
    """The licence is told to who names Root's key. It is bound to that key, so it is of use to nobody else."""
    if request.root_key != state.root.key:
        raise Refused(Code.ROOT_IS_SINGLE, "this is not Root's key now", field="$.root_key")


def root_licence_id(record_id: str) -> str:
    """The id of Root's licence, the same however often it is made; `record_id` is that of the record that names Root."""
    return ids.derive(record_id, "licence")


def root_table(state: Governance) -> licence.LicenceTable:
    """Root's licence, all of it derived from the record that names Root: genesis, or the newest `root_key`."""
    named = state.root_entry
    root = named.identity
    return licence.LicenceTable(
        id=root_licence_id(named.record_id),
        owner=licence.Owner(id=root.owner_id, name=root.name, key=root.key),
        loa=Loa.ROOT,
        scope=rules.EVERYTHING,
        issued_at=named.ts,
        expires_at=clock.format_ms(clock.parse_ms(named.ts) + rules.LONGEST_LIFE_MS),
        issuer=house.origin(state.runtime_id, state.tenant),
        version=1,
        bindings=licence.Bindings(runtime_id=state.runtime_id, canon_fingerprint=state.genesis_hash),
    )
