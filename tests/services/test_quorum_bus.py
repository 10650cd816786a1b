"""The quorum over a real bus: ten thousand voices at once, races, endings by time, another Root, another policy.

The committer is in memory, everything else as processes run it; every test ends with the whole ledger replayed.
"""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from services.quorum import rules
from sigilcore import admission, clock, drafts, ids, policy, record, signing, trust
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.contracts import license as licensing
from sigilcore.contracts import quorum as wire
from sigilcore.contracts.common import Empty
from sigilcore.records import system
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.services import test_quorum
from tests.services.test_founding import Founded, Root, bootstrapped, later, residents

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUORUM = {
    "k": 2,
    "kinds": {},
    "proposal_ttl_s": 3600,
    "checkpoint_witnesses": {"c": 0, "cosigners": []},
    "persona_cap": 0,
}


class Sealed:
    """Three witnesses, sealed with k = 2."""

    def __init__(self, house: Founded) -> None:
        self.house = house
        self.root = house.root
        self.stack = contextlib.AsyncExitStack()
        self.running: Any = None
        self.witnesses: dict[str, signing.Ed25519Signer] = {}

    async def start(self) -> None:
        """The quorum service, ended and begun anew."""
        await self.stack.aclose()
        await self.house.stack.enter_async_context(self.stack)
        self.running = await self.house.quorum(self.stack)

    def kinds(self, since: int = 0) -> list[str]:
        """What stands in the log from a position on."""
        return self.house.canon.kinds()[since:]

    async def commit(self, name: str) -> wire.Committed:
        return await self.root.call(wire.COMMIT, wire.ProposalId(proposal_id=name))

    async def view(self, name: str) -> wire.ProposalView:
        return await self.root.call(wire.PROPOSAL, wire.ReadProposal(proposal_id=name))

    async def model(self, version: str, **changes: Any) -> str:
        model = msgspec.structs.replace(trust.DEFAULT_MODEL, version=version)
        return (await self.root.propose("model_config", {"model": msgspec.to_builtins(model), **changes})).proposal_id

    async def ready(self, name: str, *voices: str) -> None:
        for voice in voices or self.witnesses:
            await self.house.attest(name, voice, self.witnesses[voice])

    async def asked(self, name: str, witness_id: str, signer: signing.Signer) -> wire.Attest:
        """A witness's request, made once, to be sent as often as one likes."""
        shown = await self.view(name)
        checked = drafts.assembled(shown.record, self.root.signer.public_key)
        voice = record.witness(checked.signed(), witness_id, signer)
        return wire.Attest(proposal_id=name, witness_id=witness_id, signature=voice.sig)

    async def attest(self, asked: wire.Attest, timeout_s: float | None = None) -> str:
        """The answer in one word."""
        try:
            return (await self.house.gateway.call(wire.ATTEST, asked, timeout_s=timeout_s)).state
        except Refused as refused:
            return refused.code


@contextlib.asynccontextmanager
async def sealed_house(folder: Path) -> AsyncIterator[Sealed]:
    """Founded, three witnesses, sealed; at the end the whole ledger is replayed."""
    async with residents(folder) as founded:
        made = await bootstrapped(founded)
        house = Sealed(founded)
        await house.start()
        for name in ("mia", "ned", "ora"):
            house.witnesses[name] = await founded.root.join(name, house.witnesses)
        seal = await founded.root.propose("quorum_policy", QUORUM)
        await house.ready(seal.proposal_id)
        await house.commit(seal.proposal_id)
        yield house
        reading = founded.canon.memory.reading
        records: list[record.PlacedRecord] = []
        while len(records) < len(house.kinds()):
            records += (await reading.events(canon.Events(first=len(records), limit=500))).items
        oracle.check(records, (await reading.checkpoint()).note.encode(), made.genesis_hash)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sealed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sealed]:
    """The house of most tests here."""
    async with sealed_house(tmp_path_factory.mktemp("quorum")) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="module")
async def alone(tmp_path: Path) -> AsyncIterator[Sealed]:
    """A house whose Root may be replaced."""
    async with sealed_house(tmp_path) as house:
        yield house


# Voices


async def test_ten_thousand_attest_at_once(sealed: Sealed) -> None:
    """Each witness's voice is written once whoever sends it how often; nobody waits in memory without a bound; forgeries count nothing.

    Who asks waits as long as it takes: as many as there are places are judged, and that is the whole of them at once.
    """
    name = await sealed.model("v2")
    valid = [await sealed.asked(name, who, signer) for who, signer in sealed.witnesses.items()]
    stranger = signing.Ed25519Signer.generate()
    forged = [await sealed.asked(name, who, stranger) for who in ("mia", "eve")]
    forged.append(await sealed.asked(name, "root", sealed.root.signer))
    calls = [(valid + forged)[number % 6] for number in range(10_000)]
    answering = sealed.running.answering
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, answering.in_flight)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    answers = collections.Counter(await asyncio.gather(*(sealed.attest(asked, 60.0) for asked in calls)))
    watching.cancel()
    options = sealed.running.parts.bus.options
    assert most <= options.max_in_flight + options.reserved_in_flight
    # Whoever found a place was judged, by what it sent; the others heard BUSY at once, and nobody anything else.
    judged = len(calls) - answers[Code.BUSY]
    assert judged >= options.max_in_flight
    assert answers["open"] + answers["ready"] == len(valid)
    for code in (Code.SIGNATURE_INVALID, Code.WITNESS_UNKNOWN, Code.ROOT_IS_NO_WITNESS):
        assert answers[code] >= options.max_in_flight // 6
    assert answers[Code.ALREADY_ATTESTED] + len(valid) >= options.max_in_flight // 2
    assert answers.keys() <= {
        "open",
        "ready",
        Code.ALREADY_ATTESTED,
        Code.SIGNATURE_INVALID,
        Code.WITNESS_UNKNOWN,
        Code.ROOT_IS_NO_WITNESS,
        Code.BUSY,
    }
    shown = await sealed.view(name)
    assert (shown.state, shown.by, shown.have) == ("ready", ("mia", "ned", "ora"), 3)
    assert sealed.kinds(shown.opened_seq).count("proposal_attested") == 3
    committed = await sealed.commit(name)
    assert len(committed.hash) == 64


async def test_two_commits_at_the_same_time(sealed: Sealed) -> None:
    """Two complete proposals on one head, committed in the same moment, again and again: one record each time, and the other is stale."""
    for round_ in range(3):
        names = [await sealed.model(f"racer-{round_}-{lane}") for lane in range(3)]
        for name in names:
            await sealed.ready(name, "mia", "ned")
        head = len(sealed.kinds())
        results = await asyncio.gather(*(sealed.commit(name) for name in names), return_exceptions=True)
        won = [one for one in results if isinstance(one, wire.Committed)]
        lost = [one for one in results if isinstance(one, Refused)]
        assert (len(won), [one.code for one in lost]) == (1, [Code.STALE_PREV] * 2)
        assert lost[0].detail == {"head": won[0].hash}
        assert sealed.kinds(head).count("model_config") == 1
        views = [await sealed.view(name) for name in names]
        assert sorted(one.state for one in views) == ["committed", "stale", "stale"]


async def test_one_commit_asked_many_times_at_once(sealed: Sealed) -> None:
    """The same commit, twenty times together, is one record and one answer."""
    name = await sealed.model("once")
    await sealed.ready(name, "mia", "ned")
    head = len(sealed.kinds())
    answers = await asyncio.gather(*(sealed.commit(name) for _ in range(20)))
    assert len({(one.id, one.seq) for one in answers}) == 1
    assert sealed.kinds(head).count("model_config") == 1


async def test_several_changes_are_one(sealed: Sealed) -> None:
    """Two mentors join and k rises: drafted with the ends that were left out, open until both keys proved themselves, one record."""
    raised = await sealed.root.propose("quorum_policy", QUORUM | {"k": 3})
    await sealed.ready(raised.proposal_id)
    await sealed.commit(raised.proposal_id)
    keys = {name: await sealed.root.mentor(name) for name in ("rex", "sue")}
    listed = await sealed.root.call(licensing.LIST, licensing.ListLicenses(limit=500))
    held = {one.owner_id: one.license_id for one in listed.items}
    joining = [
        {
            "kind": "trusted_witness",
            "payload": {
                "action": "add",
                "witness_id": name,
                "name": name.title(),
                "key": key.public_key.hex(),
                "licence_id": held[name],
            },
        }
        for name, key in keys.items()
    ]
    parts = [*joining, {"kind": "quorum_policy", "payload": QUORUM | {"k": 4}}]
    with pytest.raises(Refused, match=Code.BAD_INPUT) as bad:
        await sealed.root.propose("changes", {"changes": [*joining, {"kind": "root_key", "payload": {}}]})
    assert bad.value.field == "$.payload.changes[2].kind"
    with pytest.raises(Refused, match=Code.THRESHOLD_INVALID) as early:
        await sealed.root.propose("changes", {"changes": parts[::-1]})
    assert early.value.field == "$.payload.changes[0].payload.k"
    made = await sealed.root.propose("changes", {"changes": parts})
    told = {line.path: (line.old, line.new) for line in made.difference}
    assert (made.need, told["$.changes[2].payload.k"]) == (3, (3, 4))
    assert told["$.changes[0].payload.expires_at"] == told["$.expires_at"]
    await sealed.ready(made.proposal_id)
    assert (await sealed.view(made.proposal_id)).reason == "rex, sue have not proven their new keys"
    assert await sealed.attest(await sealed.asked(made.proposal_id, "sue", keys["sue"])) == "open"
    with pytest.raises(Refused, match=Code.QUORUM_NOT_SATISFIED) as short:
        await sealed.commit(made.proposal_id)
    assert short.value.detail == {"have": 3, "need": 3, "missing": [], "possession": "rex"}
    assert await sealed.attest(await sealed.asked(made.proposal_id, "rex", keys["rex"])) == "ready"
    await sealed.commit(made.proposal_id)
    registry = await sealed.root.call(wire.WITNESS_LIST, Empty())
    assert (registry.active, registry.quorum) == (5, 4)
    leaving = [
        {"kind": part["kind"], "payload": part["payload"] | {"action": "revoke", "licence_id": ""}} for part in joining
    ]
    back = await sealed.root.propose(
        "changes", {"changes": [{"kind": "quorum_policy", "payload": QUORUM | {"k": 3}}, *leaving]}
    )
    await sealed.ready(back.proposal_id)
    await sealed.house.attest(back.proposal_id, "rex", keys["rex"])
    await sealed.commit(back.proposal_id)
    lowered = await sealed.root.propose("quorum_policy", QUORUM)
    await sealed.ready(lowered.proposal_id)
    await sealed.commit(lowered.proposal_id)


# Endings


async def test_time_ends_a_proposal(sealed: Sealed) -> None:
    """Past its own end it takes no voice and no commit, tells why, and the sweep writes its ending."""
    name = await sealed.model("late", expires_at=later(1500))
    await sealed.ready(name, "mia", "ned")
    asked = await sealed.asked(name, "ora", sealed.witnesses["ora"])
    async with asyncio.timeout(10):
        while (await sealed.view(name)).state != "expired":
            await asyncio.sleep(0.1)
    assert await sealed.attest(asked) == Code.PROPOSAL_EXPIRED
    with pytest.raises(Refused, match=Code.PROPOSAL_EXPIRED):
        await sealed.commit(name)
    await sealed.running.service.sweep()
    shown = await sealed.view(name)
    assert (shown.state, shown.by, shown.difference) == ("expired", ("mia", "ned"), ())
    assert shown.reason


async def test_a_withdrawn_proposal_takes_nothing_more(sealed: Sealed) -> None:
    """With its quorum complete, Root takes it back: nobody commits it, and its voices serve no other."""
    name = await sealed.model("regretted")
    await sealed.ready(name, "mia", "ned")
    await sealed.root.call(wire.WITHDRAW, wire.ProposalId(proposal_id=name))
    asked = await sealed.asked(name, "ora", sealed.witnesses["ora"])
    assert await sealed.attest(asked) == Code.PROPOSAL_CLOSED
    with pytest.raises(Refused, match=Code.PROPOSAL_CLOSED):
        await sealed.commit(name)
    again = await sealed.model("regretted")
    moved = msgspec.structs.replace(asked, proposal_id=again)
    assert await sealed.attest(moved) == Code.SIGNATURE_INVALID
    assert (await sealed.view(again)).have == 0


async def test_what_the_writer_would_refuse_ends_the_proposal(sealed: Sealed) -> None:
    """A mentor whose licence ends between the last voice and the commit doesn't join: the proposal is refused, and says why."""
    raised = await sealed.root.propose("quorum_policy", QUORUM | {"k": 3})
    await sealed.ready(raised.proposal_id, "mia", "ned")
    await sealed.commit(raised.proposal_id)
    key = await sealed.root.mentor("pam")
    change = wire.WitnessChange(witness_id="pam")
    first = await sealed.root.call(wire.WITNESS_ADD, change)
    signed = drafts.signed(first.draft, sealed.root.signer)
    name = (await sealed.root.call(wire.WITNESS_ADD, msgspec.structs.replace(change, record=signed))).proposal_id
    await sealed.ready(name)
    assert await sealed.attest(await sealed.asked(name, "pam", key)) == "ready"
    listed = await sealed.root.call(licensing.LIST, licensing.ListLicenses(limit=500))
    pam = next(one for one in listed.items if one.owner_id == "pam")
    await sealed.root.call(licensing.REVOKE, licensing.RevokeLicense(license_id=pam.license_id))
    with pytest.raises(Refused, match=Code.LICENSE_INVALID):
        await sealed.commit(name)
    shown = await sealed.view(name)
    assert (shown.state, "REVOKED" in shown.reason) == ("refused", True)
    lowered = await sealed.root.propose("quorum_policy", QUORUM)
    await sealed.ready(lowered.proposal_id)
    await sealed.commit(lowered.proposal_id)


async def test_a_licence_that_ends_silences_no_witness(sealed: Sealed) -> None:
    """Root revokes every witness's licence: the voices count as before, and only the registry ends them."""
    listed = await sealed.root.call(licensing.LIST, licensing.ListLicenses(limit=500))
    for one in listed.items:
        if one.owner_id in sealed.witnesses:
            await sealed.root.call(licensing.REVOKE, licensing.RevokeLicense(license_id=one.license_id))
    name = await sealed.model("unheard")
    await sealed.ready(name, "mia", "ned")
    await sealed.commit(name)


async def test_a_persona_counts_up_to_the_cap(alone: Sealed) -> None:
    """A persona joins under a policy that lets none count: its voice is heard, shown, and adds nothing."""
    sealed = alone
    raised = await sealed.root.propose("quorum_policy", QUORUM | {"k": 3})
    await sealed.ready(raised.proposal_id)
    await sealed.commit(raised.proposal_id)
    key = await sealed.root.mentor("bot")
    change = wire.WitnessChange(witness_id="bot", persona=True)
    signed = drafts.signed((await sealed.root.call(wire.WITNESS_ADD, change)).draft, sealed.root.signer)
    posing = msgspec.structs.replace(change, persona=False, record=signed)
    with pytest.raises(Refused, match=Code.RECORD_INVALID) as caught:
        await sealed.root.call(wire.WITNESS_ADD, posing)
    assert caught.value.field == "$.record.payload.persona"
    joining = await sealed.root.call(wire.WITNESS_ADD, msgspec.structs.replace(change, record=signed))
    assert joining.proposal_id is not None
    await sealed.ready(joining.proposal_id)
    await sealed.house.attest(joining.proposal_id, "bot", key)
    await sealed.commit(joining.proposal_id)
    sealed.witnesses["bot"] = key
    name = await sealed.model("by-a-model")
    await sealed.ready(name, "bot", "mia", "ned")
    shown = await sealed.view(name)
    assert (shown.state, shown.by, shown.have, shown.need) == ("open", ("bot", "mia", "ned"), 2, 3)
    with pytest.raises(Refused, match=Code.QUORUM_NOT_SATISFIED) as short:
        await sealed.commit(name)
    assert short.value.detail == {"have": 2, "need": 3, "missing": ["ora"]}
    await sealed.ready(name, "ora")
    await sealed.commit(name)
    registry = await sealed.root.call(wire.WITNESS_LIST, Empty())
    assert {one.witness_id for one in registry.items if one.persona} == {"bot"}


async def test_every_system_kind_is_seen_committed(sealed: Sealed) -> None:
    """A change of whatever kind is known as committed from the log, also when its ending was lost: the commit again is the same answer."""
    key = signing.Ed25519Signer.generate().public_key.hex()
    name = (await sealed.root.propose("service_key", {"service": "knowledge", "key": key})).proposal_id
    await sealed.ready(name, "mia", "ned")
    sealed.house.canon.refuse_audits = True
    committed = await sealed.commit(name)
    sealed.house.canon.refuse_audits = False
    assert (await sealed.view(name)).state == "committed"
    assert await sealed.commit(name) == committed


# Root


async def outlasts(sealed: Sealed, old: Root, zoe: signing.Ed25519Signer, seq: int) -> None:
    """The new Root fetches its licence and governs; the old one is shut out."""
    bus = sealed.house.gateway
    asked = licensing.RootLicense(root_key=zoe.public_key.hex(), wait_for=seq)
    made, again = await asyncio.gather(bus.call(licensing.ROOT, asked), bus.call(licensing.ROOT, asked))
    assert made == again
    with pytest.raises(Refused, match=Code.ROOT_IS_SINGLE):
        await bus.call(licensing.ROOT, licensing.RootLicense(root_key=old.signer.public_key.hex()))
    with pytest.raises(Refused, match=Code.LICENSE_INVALID):
        await old.call(wire.PROPOSALS, wire.ListProposals())
    with pytest.raises(Refused, match=Code.LICENSE_INVALID):
        await old.login(old.toml)
    for token in ({}, {"root_key": zoe.public_key.hex(), "owner_id": "zoe", "owner_name": "Zoe"}):
        with pytest.raises(Refused, match=Code.ALREADY_BOOTSTRAPPED):
            await bus.call(licensing.BOOTSTRAP, licensing.Bootstrap(**(old.claim | token)))
    new = Root(sealed.house)
    new.signer = zoe
    await new.login(made.toml)
    sealed.house.root = sealed.root = new
    assert (await new.mentor("max")).public_key
    name = await sealed.model("by-zoe")
    await sealed.ready(name, "mia", "ora")
    await sealed.commit(name)
    assert (await new.call(wire.MODEL_CURRENT, Empty())).model.version == "by-zoe"
    listed = await new.call(licensing.LIST, licensing.ListLicenses())
    roots = [one for one in listed.items if one.loa is Loa.ROOT]
    assert [(one.owner_id, one.revoked_seq) for one in roots] == [("root", seq), (roots[1].owner_id, None)]


async def test_root_is_replaced_by_itself_and_the_quorum(alone: Sealed) -> None:
    """Proposed by the old Root, proven by the new key under the same name, agreed by k; the commit is the old Root's last word."""
    sealed = alone
    old, zoe = sealed.root, signing.Ed25519Signer.generate()
    old.toml = (await sealed.house.gateway.call(licensing.BOOTSTRAP, licensing.Bootstrap(**old.claim))).toml
    change = {"owner_id": "root", "name": "Zoe", "key": zoe.public_key.hex()}
    made = await old.propose("root_key", change)
    assert {line.path: line.new for line in made.difference}["$.key"] == change["key"]
    await sealed.ready(made.proposal_id, "mia", "ned")
    with pytest.raises(Refused, match=Code.QUORUM_NOT_SATISFIED) as short:
        await sealed.commit(made.proposal_id)
    assert short.value.detail["possession"] == "root"
    assert await sealed.attest(await sealed.asked(made.proposal_id, "root", old.signer)) == Code.ROOT_IS_NO_WITNESS
    assert await sealed.attest(await sealed.asked(made.proposal_id, "root", zoe)) == "ready"
    waiting = await sealed.model("left-behind")
    committed = await sealed.commit(made.proposal_id)
    await outlasts(sealed, old, zoe, committed.seq)
    shown = await sealed.view(waiting)
    assert (shown.state, shown.have) == ("stale", 0)
    assert (await sealed.view(made.proposal_id)).state == "committed"


async def test_root_is_replaced_without_it(alone: Sealed) -> None:
    """Root is gone: a record by the new key with all voices is appended as it is; with one voice less it is refused."""
    sealed = alone
    old, zoe = sealed.root, signing.Ed25519Signer.generate()
    old.toml = (await sealed.house.gateway.call(licensing.BOOTSTRAP, licensing.Bootstrap(**old.claim))).toml
    state = sealed.running.parts.following.state
    payload = system.RootKey(owner_id="zoe", name="Zoe", key=zoe.public_key.hex(), expires_at=later())
    signed = record.build(
        "root_key",
        payload,
        id=ids.new(),
        tenant=state.tenant,
        ts=later(0),
        space="system",
        signer=zoe,
        salt=bytes(16),
        prev=state.system_head,
    )
    voices = sorted(
        (record.witness(signed, name, signer) for name, signer in sealed.witnesses.items()),
        key=lambda voice: voice.witness_id,
    )
    author = sealed.running.parts.authoring
    with pytest.raises(Refused, match=Code.QUORUM_NOT_SATISFIED) as short:
        await author.system(record.witnessed(signed, voices[:2]))
    assert (short.value.detail["have"], short.value.detail["need"]) == (2, 3)
    placed = await author.system(record.witnessed(signed, voices))
    await outlasts(sealed, old, zoe, placed.seq)
    assert admission.root_link(sealed.running.parts.following.state)[0] == "root_key"


# Policy


async def test_a_policy_is_uploaded_and_rules(sealed: Sealed) -> None:
    """Draft, proposal, voices, commit: the rung it raises holds at once, and `policy/current` tells the record that put it there."""
    root = sealed.root
    before = await root.call(wire.POLICY_CURRENT, Empty())
    assert (before.policy, before.seq) == (policy.FIRST_POLICY, 0)
    raised = policy.AccessPolicy(version="strict", rungs={"witness/list": Loa.ROOT})
    upload = wire.UploadPolicy(policy=raised)
    draft = (await root.call(wire.POLICY_UPLOAD, upload)).draft
    signed = drafts.signed(draft, root.signer)
    other = wire.UploadPolicy(policy=msgspec.structs.replace(raised, rate_limit=7), record=signed)
    with pytest.raises(Refused, match=Code.RECORD_INVALID) as caught:
        await root.call(wire.POLICY_UPLOAD, other)
    assert caught.value.field == "$.record.payload.policy.rate_limit"
    made = await root.call(wire.POLICY_UPLOAD, msgspec.structs.replace(upload, record=signed))
    assert made.need == 2
    await sealed.ready(made.proposal_id, "mia", "ned")
    committed = await sealed.commit(made.proposal_id)
    now = await root.call(wire.POLICY_CURRENT, Empty())
    assert (now.policy, now.seq) == (raised, committed.seq)
    request = licensing.CreateLicense(
        owner_id="olga", owner_name="Olga", loa=Loa.OBSERVER, expires_at=later(), id=ids.new()
    )
    await root.call(licensing.CREATE, request)


@pytest.mark.parametrize(
    "rungs", [{"license/create": Loa.GUEST}, {"no/such": Loa.ROOT}], ids=["lowers a rung", "names no command"]
)
async def test_a_policy_that_would_be_refused(rungs: dict[str, Loa]) -> None:
    """Nothing of the kind is even proposed: the writer's own check says why."""
    house = test_quorum.House(3, sealed=True)
    upload = wire.UploadPolicy(policy=policy.AccessPolicy(version="bad", rungs=rungs))
    payload = rules.policy_payload(upload, expires_at=clock.format_ms(house.now_ms + 60_000))
    with pytest.raises(Refused, match=Code.RECORD_INVALID):
        house.propose(payload)


# The whole service, started anew


async def test_everything_restarts_in_the_middle(sealed: Sealed) -> None:
    """With a voice given and a proposal half way, the quorum service ends and another begins: nothing is lost, nothing counts twice."""
    name, other = await sealed.model("survivor"), await sealed.model("bystander")
    await sealed.ready(name, "mia")
    before = await sealed.view(name)
    await sealed.start()
    assert await sealed.view(name) == before
    repeated = await sealed.asked(name, "mia", sealed.witnesses["mia"])
    assert await sealed.attest(repeated) == Code.ALREADY_ATTESTED
    await sealed.ready(name, "ned")
    await sealed.commit(name)
    assert (await sealed.view(other)).state == "stale"
