"""The license service: thin handlers over the rules, then the table.

Every answer is made from what the log holds, not from what was asked: a licence is sealed from the table that was written, so the same
call again answers the same document, whatever happened to the first answer.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from services.license import bootstrap, key_rules, rules
from sigilcore import admission, clock, ids, licence, record, signing
from sigilcore.contracts import canon, keys
from sigilcore.contracts import license as wire
from sigilcore.contracts.common import Placed
from sigilcore.faults import Corrupt
from sigilcore.governance import Governance
from sigilcore.permit import Call
from sigilcore.refusals import Code, Refused
from sigilrun.settings_sections import DeploymentFile


class Ledger(Protocol):
    """What the license service needs of the canon."""

    @property
    def state(self) -> Governance:
        """The newest state that was followed and verified."""

    async def wait_for(self, size: int) -> None:
        """Return once the state has seen the first `size` records. Raises NOT_YET."""

    async def reach(self, seq: int) -> None:
        """Return once the state has seen the record that a caller names by `seq`. Raises BEYOND_HEAD, NOT_YET."""

    async def seek_genesis(self) -> None:
        """If the canon has a record 0, return once the state has seen it."""

    async def introduced(self) -> None:
        """Return once this instance may write audit records."""

    async def found(self, request: canon.BootstrapAppend) -> None:
        """Have record 0 committed; the same bytes again are the same record 0."""

    async def audit(
        self,
        kind: str,
        payload: msgspec.Struct,
        *,
        id: str,  # noqa: A002 - the field's name
        links: Sequence[record.Link],
    ) -> Placed:
        """Append one audit record; its place once it is durable and its receipt verified. Raises `Refused`."""


class License:
    """What the handlers share. `token_hash` is None once no bootstrap is expected here."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: clock.Clock,
        signer: signing.Signer,
        deployment: DeploymentFile,
        token_hash: str | None,
    ) -> None:
        """`signer` is the license service's own key: it makes seals."""
        self.ledger = ledger
        self.clock = clock
        self.signer = signer
        self.deployment = deployment
        self.token_hash = token_hash
        self.founding = asyncio.Lock()

    @property
    def state(self) -> Governance:
        """The newest state of the log."""
        return self.ledger.state


async def begin(service: License, request: wire.Bootstrap, call: Call) -> wire.Bootstrapped:
    """Make the single Root: first the draft, then the licence; from any point again."""
    del call
    async with service.founding:
        if not service.state.bootstrapped:
            await service.ledger.seek_genesis()
        if not service.state.bootstrapped:
            draft = await _found(service, request)
            if draft is not None:
                return wire.Bootstrapped(draft=draft)
        bootstrap.check_resumes(request, service.state)
        return await _root_licence(service)


async def root(service: License, request: wire.RootLicense, call: Call) -> wire.Bootstrapped:
    """The licence of the Root that the log names now, issued with the first such call."""
    del call
    if request.wait_for is not None:
        await service.ledger.reach(request.wait_for)
    async with service.founding:
        bootstrap.check_root(request, service.state)
        return await _root_licence(service)


async def _found(service: License, request: wire.Bootstrap) -> wire.Draft | None:
    """Step 1's draft; or None once step 2's record 0 is the log's."""
    if service.token_hash is None:
        raise Refused(Code.BOOTSTRAP_REFUSED, "no bootstrap token was issued here", field="$.token")
    bootstrap.check_token(request.token, service.token_hash)
    expected = bootstrap.genesis(request, service.deployment, service.token_hash)
    now_ms = service.clock.now_ms()
    if request.draft is None and request.signature is None:
        return bootstrap.draft(expected, record_id=ids.new(), now_ms=now_ms, salt=os.urandom(16))
    signed = bootstrap.accepted(request, expected, now_ms).signed()
    try:
        await service.ledger.found(canon.BootstrapAppend(token=request.token, record=signed))
    except Refused as refused:
        # The log has a record 0 that we haven't seen yet; whether it is this caller's is decided from the log.
        if refused.code is not Code.ALREADY_BOOTSTRAPPED:
            raise
    await service.ledger.wait_for(1)
    return None


async def _root_licence(service: License) -> wire.Bootstrapped:
    """Root's licence, issued if it isn't yet. A crash on either side of the append ends here again, in the same document."""
    state = service.state
    made = bootstrap.root_table(state)
    if state.issued(made.id) is None:
        await service.ledger.introduced()
        payload = rules.issuance(made, seal_key_id=service.signer.key_id, root_signature=None, request=None)
        label, target = admission.root_link(state)
        placed = await service.ledger.audit(
            "license_issued",
            payload,
            id=rules.issuance_id(made.id),
            links=(record.Link(label=label, target=target),),
        )
        await service.ledger.wait_for(placed.seq + 1)
    return wire.Bootstrapped(
        genesis_hash=state.genesis_hash, license_id=made.id, toml=licence.to_toml(_sealed(service, made.id))
    )


async def create(service: License, request: wire.CreateLicense, call: Call) -> wire.LicenseCreated:
    """Issue a licence."""
    made = rules.table(service.state, request, licence_id=rules.licence_id(request), now_ms=service.clock.now_ms())
    return await _issued(service, made, request.root_signature, call)


async def renew(service: License, request: wire.RenewLicense, call: Call) -> wire.LicenseCreated:
    """Issue a licence anew with a later end. The old one lives to its own, so nobody is locked out while the new document travels."""
    made = rules.renewal(service.state, request, licence_id=rules.licence_id(request), now_ms=service.clock.now_ms())
    return await _issued(service, made, request.root_signature, call, renews=request.license_id)


async def _issued(
    service: License, made: licence.LicenceTable, root_signature: str | None, call: Call, renews: str | None = None
) -> wire.LicenseCreated:
    """Write the issuance, and answer the document of what the log holds then."""
    name = made.id
    payload = rules.issuance(
        made, seal_key_id=service.signer.key_id, root_signature=root_signature, request=call.bound.request()
    )
    links: tuple[record.Link, ...] = (_decision(call),)
    if renews is not None:
        links = (*links, record.Link(label=wire.RENEWS, target=renews))
    placed = await service.ledger.audit("license_issued", payload, id=rules.issuance_id(name), links=links)
    await service.ledger.wait_for(placed.seq + 1)
    document = _sealed(service, name)
    return wire.LicenseCreated(
        license_id=name,
        toml=licence.to_toml(document),
        bearer=not document.license.key_bound,
        id=placed.id,
        hash=placed.hash,
        seq=placed.seq,
        renews=renews,
    )


async def reissue(service: License, request: wire.ReissueLicense, call: Call) -> wire.LicenseReissued:
    """A fresh seal over a valid licence. Nothing is written: the licence is the same, and what was presented counts as before."""
    del call
    found = licence.validate(request.license, service.state, service.clock.now_ms())
    document = licence.seal(rules.reissued(service.state, found), service.signer)
    return wire.LicenseReissued(
        license_id=document.license.id,
        toml=licence.to_toml(document),
        bearer=not document.license.key_bound,
        seal_key_id=document.seal.key_id,
    )


async def validate(service: License, request: wire.ValidateLicense, call: Call) -> wire.LicenseValidation:
    """Check a presented licence against the log."""
    del call
    return rules.validation(licence.validate(request.license, service.state, service.clock.now_ms()))


async def revoke(service: License, request: wire.RevokeLicense, call: Call) -> wire.LicenseRevoked:
    """End a licence. A repetition under the caller's own id is the writer's to know."""
    entry = service.state.issued(request.license_id)
    if request.id is None or entry is None or entry.revoked_seq is None:
        rules.check_revocable(service.state, request.license_id)
    payload = rules.revocation(request, call.bound.request())
    name = ids.new() if request.id is None else rules.checked_id(request.id)
    placed = await service.ledger.audit("license_revoked", payload, id=name, links=(_decision(call),))
    await service.ledger.wait_for(placed.seq + 1)
    entry = service.state.licences[request.license_id]
    return wire.LicenseRevoked(
        license_id=request.license_id,
        bearer=not entry.table.key_bound,
        id=placed.id,
        hash=placed.hash,
        seq=placed.seq,
    )


async def listed(service: License, request: wire.ListLicenses, call: Call) -> wire.LicensePage:
    """Licences in order of issue."""
    del call
    if request.wait_for is not None:
        await service.ledger.reach(request.wait_for)
    return rules.page(
        service.state,
        cursor=request.cursor,
        limit=request.limit,
        now_ms=service.clock.now_ms(),
        only=request.state,
    )


async def revoke_key(service: License, request: keys.RevokeKey, call: Call) -> keys.KeyEnded:
    """End a key; this instance's own too, which then has written its last record."""
    payload = key_rules.revocation(service.state, request, call.bound.request())
    name = ids.new() if request.id is None else rules.checked_id(request.id)
    placed = await service.ledger.audit("key_revoked", payload, id=name, links=(_decision(call),))
    await service.ledger.wait_for(placed.seq + 1)
    return key_rules.ended(service.state, request.key_id, placed)


async def keys_listed(service: License, request: keys.ListKeys, call: Call) -> keys.KeyPage:
    """Keys in the order in which the log came to know them."""
    del call
    if request.wait_for is not None:
        await service.ledger.reach(request.wait_for)
    return key_rules.page(service.state, request)


def _sealed(service: License, name: str) -> licence.LicenceDocument:
    """The document of a licence as the log holds it; Ed25519 makes the same seal each time."""
    entry = service.state.issued(name)
    if entry is None:
        raise Corrupt(f"licence {name} was written and is not in the state")
    return licence.seal(entry.table, service.signer)


def _decision(call: Call) -> record.Link:
    return record.Link(label="decision", target=call.bound.permit.decision.link())


HANDLERS: dict[Any, Any] = {
    wire.BOOTSTRAP: begin,
    wire.ROOT: root,
    wire.CREATE: create,
    wire.RENEW: renew,
    wire.REISSUE: reissue,
    wire.VALIDATE: validate,
    wire.REVOKE: revoke,
    wire.LIST: listed,
    keys.REVOKE: revoke_key,
    keys.LIST: keys_listed,
}
