"""An owner's side of a draft: whatever the server changes, nothing is signed."""

import hashlib

import msgspec
import pytest

from cli import governed, owner
from cli.refusal import Refusal
from sigilcore import canonical, clock, digest, drafts, ids, licence, note, policy, record, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import license as licensing
from sigilcore.contracts import quorum
from sigilcore.governance import Governance
from sigilcore.records import system
from sigilrun import http, settings

TENANT = "default"
NOW = clock.format_ms(1_790_000_000_000)
END = clock.format_ms(1_790_000_600_000)
SALT = bytes(16)
ROOT = signing.Ed25519Signer(bytes(31) + b"\x01")
ASKED = licensing.Bootstrap(token="a token", owner_id="root", owner_name="Root", root_key=ROOT.public_key.hex())
WRITER = signing.Ed25519Signer(bytes(31) + b"\x03")
DEPLOYED = settings.DeploymentFile(
    runtime_id="0190a000-0000-7000-8000-000000000001",
    tenant=TENANT,
    services={"license": signing.Ed25519Signer(bytes(31) + b"\x02").public_key.hex()},
    log=note.VerifierKey.of("sigil/x/default", note.ED25519, WRITER.public_key).format(),
)
MODEL = msgspec.structs.replace(trust.DEFAULT_MODEL, version="next-2", bias=1_000_000)
OTHER = signing.Ed25519Signer(bytes(31) + b"\x09").public_key.hex()


def genesis(**changes):
    payload = system.Genesis(
        format="sigil/1",
        tenant=TENANT,
        runtime_id=DEPLOYED.runtime_id,
        root=system.RootIdentity(owner_id="root", name="Root", key=ROOT.public_key.hex()),
        services=DEPLOYED.services,
        log=DEPLOYED.log,
        bootstrap_token_hash=hashlib.sha256(b"a token").hexdigest(),
        model=trust.DEFAULT_MODEL,
        policy=policy.FIRST_POLICY,
        modules=(),
        corpus_licences=("MIT",),
    )
    return msgspec.structs.replace(payload, **changes)


def drafted(kind, payload, **changes):
    """A draft as the server makes it, or one that it changed."""
    made = {"id": "0190a000-0000-7000-8000-000000000002", "tenant": TENANT, "ts": NOW, "prev": None, "salt": SALT}
    return drafts.made(kind, payload, **{**made, **changes})


def founded() -> Governance:
    """The state right after genesis."""
    signed = record.build(
        "genesis",
        genesis(),
        id="0190a000-0000-7000-8000-000000000003",
        tenant=TENANT,
        ts=NOW,
        space="system",
        signer=ROOT,
        salt=SALT,
    )
    state = Governance()
    state.apply(0, record.check(signed))
    return state


def test_the_asked_genesis_is_accepted():
    """What this owner would found passes, with and without the operator's deployment.json."""
    draft = drafted("genesis", genesis())
    assert owner.check_genesis(draft, ASKED, DEPLOYED) == genesis()
    assert owner.check_genesis(draft, ASKED, None) == genesis()


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"root": system.RootIdentity(owner_id="root", name="Root", key=OTHER)}, "$.payload.root.key"),
        (
            {"root": system.RootIdentity(owner_id="eve", name="Root", key=ROOT.public_key.hex())},
            "$.payload.root.owner_id",
        ),
        ({"services": {**DEPLOYED.services, "license": OTHER}}, "$.payload.services.license"),
        ({"services": {**DEPLOYED.services, "spy": OTHER}}, "$.payload.services.spy"),
        ({"log": "sigil/y/default+00000000+AQ=="}, "$.payload.log"),
        ({"runtime_id": "0190a000-0000-7000-8000-00000000000f"}, "$.payload.runtime_id"),
        ({"bootstrap_token_hash": "0" * 64}, "$.payload.bootstrap_token_hash"),
        ({"model": MODEL}, "$.payload.model.bias"),
        ({"policy": policy.AccessPolicy(version="lax", rate_limit=1_000_000)}, "$.payload.policy.rate_limit"),
        ({"modules": ("spy",)}, "$.payload.modules"),
        ({"tenant": "other"}, "$.payload.tenant"),
    ],
)
def test_a_changed_genesis_is_never_signed(changes, path):
    """Every field that this owner knows is held against what they would found; the first difference is named."""
    with pytest.raises(owner.Differs) as refused:
        owner.check_genesis(drafted("genesis", genesis(**changes)), ASKED, DEPLOYED)
    assert path in str(refused.value)


def test_the_asked_change_is_signed_on_the_verified_head():
    """Root's signature stands under exactly the draft's bytes; the time to expire is the server's to choose."""
    state = founded()
    draft = drafted("model_config", system.ModelConfig(model=MODEL, expires_at=END), prev=state.system_head)
    signed = owner.sign_draft(draft, "model_config", {"model": msgspec.to_builtins(MODEL)}, state, ROOT)
    checked = drafts.assembled(signed, ROOT.public_key)
    record.verify_author(checked.header, checked.core_bytes, ROOT.public_key)
    assert checked.payload.model == MODEL


@pytest.mark.parametrize(
    ("kind", "payload", "changes"),
    [
        ("model_config", system.ModelConfig(model=trust.DEFAULT_MODEL, expires_at=END), {}),
        ("model_config", system.ModelConfig(model=MODEL, expires_at=END), {"prev": "0" * 64}),
        ("model_config", system.ModelConfig(model=MODEL, expires_at=END), {"prev": None}),
        ("model_config", system.ModelConfig(model=MODEL, expires_at=END), {"tenant": "other"}),
        ("access_policy", system.AccessPolicyChange(policy=policy.FIRST_POLICY, expires_at=END), {}),
        ("service_key", system.ServiceKey(service="license", key=OTHER, expires_at=END), {}),
    ],
    ids=["another model", "another head", "no head", "another tenant", "another kind", "a key instead"],
)
def test_a_changed_change_is_never_signed(kind, payload, changes):
    """Another value, head, tenant or kind than was asked for."""
    state = founded()
    draft = drafted(kind, payload, **{"prev": state.system_head, **changes})
    with pytest.raises(Refusal):
        owner.sign_draft(draft, "model_config", {"model": msgspec.to_builtins(MODEL)}, state, ROOT)


def test_a_witness_with_another_key_is_never_signed():
    """The server can't slip its own key under a mentor's name."""
    state = founded()
    asked = {"action": "add", "witness_id": "ada", "name": "Ada", "key": ROOT.public_key.hex(), "licence_id": ""}
    payload = system.TrustedWitness(**{**asked, "key": OTHER}, expires_at=END)
    with pytest.raises(owner.Differs, match=r"\$\.payload\.key"):
        owner.sign_draft(
            drafted("trusted_witness", payload, prev=state.system_head), "trusted_witness", asked, state, ROOT
        )


def test_a_lower_quorum_is_never_signed():
    """Nor can it lower k, or raise how many personas may vote."""
    state = founded()
    asked = owner.seal_payload(3, kinds={}, proposal_ttl_s=3600)
    for change in ({"k": 1}, {"persona_cap": 9}, {"kinds": {"model_config": 1}}):
        payload = canonical.typed({**asked, **change, "expires_at": END}, system.QuorumPolicy)
        with pytest.raises(owner.Differs):
            owner.sign_draft(
                drafted("quorum_policy", payload, prev=state.system_head), "quorum_policy", asked, state, ROOT
            )


def test_a_draft_that_hides_its_payload_is_never_signed():
    """The payload that is shown must be the payload that the core hashes."""
    state = founded()
    good = drafted("model_config", system.ModelConfig(model=MODEL, expires_at=END), prev=state.system_head)
    lax = drafted("model_config", system.ModelConfig(model=trust.DEFAULT_MODEL, expires_at=END), prev=state.system_head)
    crossed = [
        msgspec.structs.replace(good, core=lax.core),
        msgspec.structs.replace(good, salt="1" * 32),
        msgspec.structs.replace(good, core=good.core.replace('{"id"', '{ "id"')),
        msgspec.structs.replace(good, payload=" " + good.payload),
        msgspec.structs.replace(good, core="{}"),
        None,
    ]
    for draft in crossed:
        with pytest.raises(governed.Unverified):
            owner.sign_draft(draft, "model_config", {"model": msgspec.to_builtins(MODEL)}, state, ROOT)


def test_only_roots_key_signs():
    """Another key is refused before it signs anything."""
    state = founded()
    draft = drafted("model_config", system.ModelConfig(model=MODEL, expires_at=END), prev=state.system_head)
    with pytest.raises(governed.Unverified, match="not Root's"):
        owner.sign_draft(
            draft, "model_config", {"model": msgspec.to_builtins(MODEL)}, state, signing.Ed25519Signer.generate()
        )


def session() -> http.Session:
    return http.Session(
        token="t",
        session_id=ids.new(),
        owner_id="root",
        owner_name="Root",
        loa=Loa.ROOT,
        not_after_ms=0,
        genesis_hash="a" * 64,
        runtime_id=DEPLOYED.runtime_id,
    )


def test_a_changed_licence_table_is_never_signed():
    """Root signs a mentor's table only if it says what was asked: owner, key, level, scope, end, deployment."""
    asked = licensing.CreateLicense(
        owner_id="ada", owner_name="Ada", loa=Loa.MENTOR, expires_at=END, owner_key=OTHER, scope=("memory/*",)
    )
    table = licence.LicenceTable(
        id=ids.new(),
        owner=licence.Owner(id="ada", name="Ada", key=OTHER),
        loa=Loa.MENTOR,
        scope=("memory/*",),
        issued_at=NOW,
        expires_at=END,
        issuer="sigil",
        version=1,
        bindings=licence.Bindings(runtime_id=DEPLOYED.runtime_id, canon_fingerprint="a" * 64),
    )
    assert owner.check_table(msgspec.to_builtins(table), asked, session()) == table
    changed = [
        {"owner": licence.Owner(id="eve", name="Ada", key=OTHER)},
        {"owner": licence.Owner(id="ada", name="Ada", key=ROOT.public_key.hex())},
        {"owner": licence.Owner(id="ada", name="Ada")},
        {"loa": Loa.ROOT},
        {"scope": ("*",)},
        {"expires_at": "2099-01-01T00:00:00.000Z"},
        {"bindings": licence.Bindings(runtime_id=DEPLOYED.runtime_id, canon_fingerprint="b" * 64)},
    ]
    for change in changed:
        draft = msgspec.to_builtins(msgspec.structs.replace(table, **change))
        with pytest.raises(owner.Differs):
            owner.check_table(draft, asked, session())
    with pytest.raises(governed.Unverified):
        owner.check_table({"id": 1}, asked, session())


def proposal(state: Governance, payload: system.ModelConfig, **changes) -> quorum.ProposalView:
    """A proposal as the house shows it, or one that it changed."""
    signed = drafts.signed(drafted("model_config", payload, prev=state.system_head), ROOT)
    shown = {
        "proposal_id": ids.new(),
        "state": "open",
        "kind": "model_config",
        "record": signed,
        "record_hash": digest.sha256_hex(signed.core.encode()),
        "difference": tuple(
            quorum.Change(path=line.path, old=line.old, new=line.new)
            for line in governed.difference.of_change(state, payload)
        ),
        "need": 3,
        "have": 0,
        "by": (),
        "missing": (),
        "expires_at": END,
        "opened_seq": 9,
        "reason": "",
    }
    return quorum.ProposalView(**{**shown, **changes})


def test_a_proposal_is_read_on_ones_own_side():
    """The difference is computed here, and what the house shows must be the same."""
    state = founded()
    payload = system.ModelConfig(model=MODEL, expires_at=END)
    read = governed.Read(state, proposal(state, payload))
    assert read.on_head
    assert [line.path for line in read.lines] == ["$.expires_at", "$.model.bias", "$.model.version"]


def test_a_proposal_that_shows_something_else_is_never_attested():
    """A hidden line, another hash, another payload, another signer: none is read."""
    state = founded()
    payload = system.ModelConfig(model=MODEL, expires_at=END)
    good = proposal(state, payload)
    other = drafts.signed(drafted("model_config", payload, prev=state.system_head), signing.Ed25519Signer.generate())
    for changes in (
        {"difference": good.difference[:-1]},
        {"record_hash": "0" * 64},
        {"record": msgspec.structs.replace(good.record, payload=good.record.payload.replace("next-2", "next-3"))},
        {"record": other},
    ):
        with pytest.raises(governed.Unverified):
            governed.Read(state, msgspec.structs.replace(good, **changes))
