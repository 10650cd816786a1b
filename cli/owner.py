"""What an owner does on their own side: read a draft, hold it against what they asked for, sign, send.

The server drafts, because it knows the head and the names; it is not believed. Before a signature is made, the draft is rebuilt here
and compared field by field with the change that was asked for; `expires_at` and the draft's id, time and salt are the server's to
choose, everything else must be equal. Keys stay with these functions' callers.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cli import governed, packet
from cli.refusal import Refusal
from sigilcore import (
    canonical,
    difference,
    digest,
    drafts,
    governance,
    ids,
    licence,
    model_update,
    policy,
    record,
    records,
    signing,
    trust,
)
from sigilcore.access import Loa
from sigilcore.contracts import canon, quorum
from sigilcore.contracts import license as licensing
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused
from sigilrun import http, settings

SERVERS_CHOICE: Final = frozenset({"$.expires_at"})
BOOTSTRAP_S: Final = 20.0


class Differs(Refusal):
    """The server's draft isn't what was asked for; nothing was signed."""

    code = "DRAFT_DIFFERS"

    def __init__(self, what: str, path: str, asked: Any, drafted: Any) -> None:
        """Names the first difference."""
        super().__init__(f"{what}: {path} is {json.dumps(drafted)}, not {json.dumps(asked)}; nothing was signed")


# Bootstrap


async def bootstrap(
    client: http.Client,
    root: signing.Signer,
    *,
    token: str,
    owner_id: str,
    owner_name: str,
    deployed: settings.DeploymentFile | None = None,
) -> licensing.Bootstrapped:
    """Found the canon: draft, compare, sign, send; the genesis hash and Root's licence.

    With `deployed` (the operator has the data folder) the services' keys and the log's key are compared too."""
    asked = licensing.Bootstrap(token=token, owner_id=owner_id, owner_name=owner_name, root_key=root.public_key.hex())
    done = await _resumable(client, asked)
    if done.draft is not None:
        check_genesis(done.draft, asked, deployed)
        signed = drafts.signed(done.draft, root)
        core = digest.sha256_hex(done.draft.core.encode())
        done = await _resumable(client, msgspec.structs.replace(asked, draft=done.draft, signature=signed.sig))
        if done.genesis_hash != core:
            raise Differs("genesis", "$.genesis_hash", core, done.genesis_hash)
    bound = _licence(done)
    said = (bound.owner.id, bound.owner.key, bound.bindings.canon_fingerprint)
    if said != (owner_id, asked.root_key, done.genesis_hash):
        raise Differs("Root's licence", "$.license", [owner_id, asked.root_key, done.genesis_hash], list(said))
    return done


async def _resumable(client: http.Client, asked: licensing.Bootstrap) -> licensing.Bootstrapped:
    """A step of the bootstrap; the same again is safe at any point, so it is asked until the house is up to it."""
    return await http.persistently(lambda: client.call(licensing.BOOTSTRAP, asked), give_up_s=BOOTSTRAP_S)


def _licence(done: licensing.Bootstrapped) -> licence.LicenceTable:
    try:
        return licence.parse(done.toml or "").license
    except ValueError as error:
        raise governed.Unverified(f"Root's licence can't be read: {error}") from error


def check_genesis(
    draft: licensing.Draft, asked: licensing.Bootstrap, deployed: settings.DeploymentFile | None
) -> system.Genesis:
    """Record 0 must be what this owner would found: their identity, their token, the model and policy of this program."""
    core, payload = opened(draft, "genesis", None)
    assert isinstance(payload, system.Genesis)
    expected = msgspec.structs.replace(
        payload,
        root=system.RootIdentity(owner_id=asked.owner_id, name=asked.owner_name, key=asked.root_key),
        bootstrap_token_hash=digest.sha256_hex(asked.token.encode()),
        model=trust.DEFAULT_MODEL,
        policy=policy.FIRST_POLICY,
        tenant=core.tenant,
        modules=(),
    )
    if deployed is not None:
        expected = msgspec.structs.replace(
            expected,
            runtime_id=deployed.runtime_id,
            tenant=deployed.tenant,
            services=deployed.services,
            log=deployed.log,
        )
    same(expected, payload, "genesis")
    return payload


# Licences


async def create_license(
    client: http.Client, asked: licensing.CreateLicense, root: signing.Signer | None
) -> licensing.LicenseCreated:
    """Issue a licence; for a mentor, sign the table that this side itself expects."""
    try:
        return await client.call(licensing.CREATE, asked)
    except Refused as refused:
        if refused.code is not Code.ROOT_SIGNATURE_NEEDED or root is None:
            raise
        draft = (refused.detail or {}).get("draft")
    assert client.session is not None
    table = check_table(draft, asked, client.session)
    signed = msgspec.structs.replace(
        asked, id=table.id, issued_at=table.issued_at, root_signature=licence.root_sign(table, root)
    )
    return await client.call(licensing.CREATE, signed)


async def renew_license(
    client: http.Client, asked: licensing.RenewLicense, root: signing.Signer | None
) -> licensing.LicenseCreated:
    """Renew a licence; a mentor's is signed only over the table that Root itself signed before, with the new end."""
    try:
        return await client.call(licensing.RENEW, asked)
    except Refused as refused:
        if refused.code is not Code.ROOT_SIGNATURE_NEEDED or root is None:
            raise
        draft = (refused.detail or {}).get("draft")
    assert client.session is not None
    old = await _signed_before(client, asked.license_id, root)
    again = licensing.CreateLicense(
        owner_id=old.owner.id,
        owner_name=old.owner.name,
        owner_key=old.owner.key,
        loa=old.loa,
        scope=old.scope,
        expires_at=asked.expires_at,
        id=asked.id,
        issued_at=asked.issued_at,
    )
    table = check_table(draft, again, client.session)
    signed = msgspec.structs.replace(
        asked, id=table.id, issued_at=table.issued_at, root_signature=licence.root_sign(table, root)
    )
    return await client.call(licensing.RENEW, signed)


async def _signed_before(client: http.Client, license_id: str, root: signing.Signer) -> licence.LicenceTable:
    """A mentor licence's table as the log holds it, believed for Root's own signature under it."""
    view = await client.call(canon.GET, canon.Get(id=ids.derive(license_id, "issued")))
    try:
        issued = canonical.typed(view.payload, audit.LicenceIssued)
    except canonical.NotCanonical as error:
        raise governed.Unverified(f"the record of the licence can't be read: {error}") from error
    mine = issued.root_signature is not None and licence.root_signed(
        issued.license, issued.root_signature, root.public_key
    )
    if not mine or issued.license.id != license_id:
        raise governed.Unverified("the licence to renew doesn't carry this Root's signature")
    return issued.license


def check_table(draft: Any, asked: licensing.CreateLicense, opened_as: http.Session) -> licence.LicenceTable:
    """The licence table that was asked for; its id and time of issue are the server's."""
    try:
        table = canonical.typed(draft, licence.LicenceTable)
    except canonical.NotCanonical as error:
        raise governed.Unverified(f"the server's draft of a licence can't be read: {error}") from error
    expected = licence.LicenceTable(
        id=table.id if asked.id is None else asked.id,
        owner=licence.Owner(id=asked.owner_id, name=asked.owner_name, key=asked.owner_key),
        loa=asked.loa,
        scope=("*",) if asked.scope is None else asked.scope,
        issued_at=table.issued_at if asked.issued_at is None else asked.issued_at,
        expires_at=asked.expires_at,
        issuer=table.issuer,
        version=1,
        bindings=licence.Bindings(runtime_id=opened_as.runtime_id, canon_fingerprint=opened_as.genesis_hash),
    )
    same(expected, table, "licence", free=frozenset())
    return table


# System changes


async def propose_witness(
    client: http.Client, root: signing.Signer, action: str, change: quorum.WitnessChange, licence_id: str
) -> quorum.DraftOrProposal:
    """Propose a change of the witness registry; `change` says all of it."""
    command = {"add": quorum.WITNESS_ADD, "rotate": quorum.WITNESS_ROTATE, "revoke": quorum.WITNESS_REVOKE}[action]
    found = await governed.state(client)
    asked = {
        "action": action,
        "witness_id": change.witness_id,
        "name": change.name,
        "key": change.key,
        "licence_id": licence_id,
        "persona": bool(change.persona),
    }
    first = await client.call(command, change)
    signed = sign_draft(first.draft, "trusted_witness", asked, found, root)
    return await client.call(command, msgspec.structs.replace(change, record=signed))


async def propose_model(
    client: http.Client, root: signing.Signer, model: trust.TrustModel, because: model_update.Because | None = None
) -> quorum.DraftOrProposal:
    """Propose a trust model, with the outcomes that it was computed from if it was."""
    found = await governed.state(client)
    upload = quorum.UploadModel(
        version=model.version, weights=model.weights, bias=model.bias, threshold=model.threshold, because=because
    )
    asked: dict[str, Any] = {"model": msgspec.to_builtins(model)}
    if because is not None:
        asked["because"] = msgspec.to_builtins(because)
    first = await client.call(quorum.MODEL_UPLOAD, upload)
    signed = sign_draft(first.draft, "model_config", asked, found, root)
    return await client.call(quorum.MODEL_UPLOAD, msgspec.structs.replace(upload, record=signed))


async def propose_policy(
    client: http.Client, root: signing.Signer, wanted: policy.AccessPolicy
) -> quorum.DraftOrProposal:
    """Propose an access policy."""
    found = await governed.state(client)
    upload = quorum.UploadPolicy(policy=wanted)
    first = await client.call(quorum.POLICY_UPLOAD, upload)
    signed = sign_draft(first.draft, "access_policy", {"policy": msgspec.to_builtins(wanted)}, found, root)
    return await client.call(quorum.POLICY_UPLOAD, msgspec.structs.replace(upload, record=signed))


async def rebase(client: http.Client, root: signing.Signer, proposal_id: str) -> quorum.Proposed:
    """Propose the same change again on the present head, under an end of its own; nobody's voice carries over."""
    old = await read_proposal(client, proposal_id)
    asked = drafts.without_ends(old.checked.payload)
    kind = old.checked.core.kind
    draft = await client.call(quorum.DRAFT, quorum.MakeDraft(kind=kind, payload=asked))
    signed = sign_draft(draft, kind, asked, await governed.state(client), root)
    return await client.call(quorum.REBASE, quorum.Propose(record=signed))


async def propose(client: http.Client, root: signing.Signer, kind: str, payload: Mapping[str, Any]) -> quorum.Proposed:
    """Propose any system change."""
    found = await governed.state(client)
    draft = await client.call(quorum.DRAFT, quorum.MakeDraft(kind=kind, payload=dict(payload)))
    signed = sign_draft(draft, kind, payload, found, root)
    return await client.call(quorum.PROPOSE, quorum.Propose(record=signed))


def seal_payload(
    k: int,
    *,
    kinds: Mapping[str, int],
    proposal_ttl_s: int,
    c: int = 0,
    cosigners: Sequence[system.Cosigner] = (),
    personas: int = 0,
) -> dict[str, Any]:
    """The quorum policy that seals a house: k voices, at most so many of them personas', c of these cosigners for checkpoints."""
    return {
        "k": k,
        "kinds": dict(kinds),
        "proposal_ttl_s": proposal_ttl_s,
        "checkpoint_witnesses": {"c": c, "cosigners": [msgspec.to_builtins(one) for one in cosigners]},
        "persona_cap": personas,
    }


def sign_draft(
    draft: licensing.Draft | None,
    kind: str,
    asked: Mapping[str, Any],
    found: governance.Governance,
    root: signing.Signer,
) -> quorum.RootSigned:
    """Root's signature over a draft that holds exactly the asked change, on the head that this side verified."""
    if draft is None:
        raise governed.Unverified("the server answered without a draft")
    if root.public_key.hex() != found.root.key:
        raise governed.Unverified("this key is not Root's")
    core, payload = opened(draft, kind, found.tenant)
    if core.prev != found.system_head:
        raise Differs(kind, "$.core.prev", found.system_head, core.prev)
    entry = records.REGISTRY[kind]
    expected = canonical.typed(drafts.with_ends(asked, getattr(payload, "expires_at", "")), entry.payload)
    same(expected, payload, kind)
    return drafts.signed(draft, root)


def opened(draft: licensing.Draft, kind: str, tenant: str | None) -> tuple[record.Core, msgspec.Struct]:
    """A draft's core and payload, strictly read, their hash checked."""
    try:
        core = canonical.convert(draft.core.encode(), record.Core)
        payload_bytes = draft.payload.encode()
        payload = canonical.convert(payload_bytes, records.REGISTRY[kind].payload)
    except canonical.NotCanonical as error:
        raise governed.Unverified(f"the server's draft of {kind} can't be read: {error}") from error
    said = (core.kind, core.space, core.links, core.tenant)
    meant = (kind, "system", (), core.tenant if tenant is None else tenant)
    if said != meant:
        raise Differs(kind, "$.core", list(meant), list(said))
    if digest.payload_hash(bytes.fromhex(draft.salt), payload_bytes) != core.payload_hash:
        raise governed.Unverified("the draft's payload_hash isn't its payload's")
    return core, payload


def same(
    expected: msgspec.Struct, drafted: msgspec.Struct, what: str, *, free: frozenset[str] = SERVERS_CHOICE
) -> None:
    """Refuse the first field that differs and isn't the server's to choose."""
    for line in difference.between(expected, drafted):
        if line.path not in free:
            raise Differs(what, f"$.payload{line.path[1:]}", line.old, line.new)


# Voices


async def read_proposal(client: http.Client, proposal_id: str) -> governed.Read:
    """A proposal, verified on this side."""
    found = await governed.state(client)
    view = await client.call(quorum.PROPOSAL, quorum.ReadProposal(proposal_id=proposal_id))
    return governed.Read(found, view)


async def attest(client: http.Client, read: governed.Read, witness_id: str, signer: signing.Signer) -> quorum.Tally:
    """A witness's voice for exactly the record that was read, if it stands on the newest record that governs: else the difference shown
    is not the one that would be made."""
    if not read.on_head:
        raise governed.Unverified("the record doesn't stand on the newest system record that the house shows")
    sig = packet.signature(read.checked, signer)
    return await client.call(
        quorum.ATTEST, quorum.Attest(proposal_id=read.view.proposal_id, witness_id=witness_id, signature=sig)
    )


async def submit(client: http.Client, held: packet.Packet) -> quorum.Tally:
    """The voices that a file holds, in order; one that is there already is as good."""
    tally: quorum.Tally | None = None
    known: Refused | None = None
    for voice in held.voices:
        asked = quorum.Attest(proposal_id=held.proposal_id, witness_id=voice.witness_id, signature=voice.signature)
        try:
            tally = await client.call(quorum.ATTEST, asked)
        except Refused as refused:
            if refused.code is not Code.ALREADY_ATTESTED:
                raise
            known = refused
    if tally is None:
        raise known or Refusal("nobody has signed this file")
    return tally


def mentor_licence(items: tuple[licensing.LicenseView, ...], owner_id: str) -> licensing.LicenseView:
    """The newest mentor licence of an owner; raises `Unverified` when there is none."""
    valid = [
        item for item in items if item.owner_id == owner_id and item.loa is Loa.MENTOR and item.revoked_seq is None
    ]
    if not valid:
        raise governed.Unverified(f"{owner_id} holds no mentor licence")
    return max(valid, key=lambda item: item.issued_seq)
