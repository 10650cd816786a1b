"""Cosignatures of our own log: what the writer keeps, what readers show, what the notary makes of good, slow and lying cosigners.

The canon is the one in memory, with the very committer and readers of the service; cosigners are real servers over HTTP.
"""

import asyncio
import contextlib
import types

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from services.canon_writer import laws, memory, remembered
from services.canon_writer.reading import Viewer
from services.notary import rules, service
from sigilcore import checkpoint, clock, merkle, note, record, signing, tlog_proof
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.records import system
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry, witness, witness_client
from tests import oracle
from tests.canonworld import World
from tests.waiting import until

ROOT = Viewer(owner="root", loa=Loa.ROOT)
SIGNERS = [signing.Ed25519Signer(bytes([n + 1]) * 32) for n in range(3)]
KEYS = [note.VerifierKey.of(f"w{n}.example", note.COSIGNATURE, one.public_key) for n, one in enumerate(SIGNERS)]
NOW_S = 1_800_000_000
SOON_S = 20.0


class Study:
    """A sealed log on a canon in memory, and a notary's parts around it."""

    def __init__(self):
        self.world = World()
        self.voices = self.world.mentors(3)
        self.metrics = telemetry.Metrics()
        self.deployment = types.SimpleNamespace(log=self.world.deployment.log, runtime_id=self.world.runtime_id)
        self.following = self
        self.bus = self
        self.authoring = self

    async def start(self):
        self.canon = await memory.MemoryCanon.start(
            signer=self.world.writer, deployment=self.world.deployment, clock=self.world.clock
        )
        await self.world.send(self.canon)

    async def name(self, c, *cosigners):
        """A quorum policy with these cosigners (key, URL)."""
        named = tuple(system.Cosigner(vkey=key.format(), url=url) for key, url in cosigners)
        policy = self.world.quorum_policy(2, checkpoint_witnesses=system.CheckpointWitnesses(c=c, cosigners=named))
        placed = self.world.place(self.world.attested(self.world.proposal("quorum_policy", policy), *self.voices))
        await self.world.send(self.canon)
        return placed

    async def grow(self):
        """One more record."""
        payload = self.world.new_model(f"model-{len(self.world.log)}")
        self.world.place(self.world.attested(self.world.proposal("model_config", payload), *self.voices))
        await self.world.send(self.canon)

    @property
    def state(self):
        return self.canon.writer.state

    @property
    def log_key(self):
        return self.world.log_key

    @property
    def size(self):
        return self.canon.writer.head.size

    def line(self, number, data=None):
        text = note.parse(self.canon.writer.head.note if data is None else data).text
        return checkpoint.cosign(text, KEYS[number].name, SIGNERS[number], NOW_S)

    async def cosign(self, *lines, size=None):
        asked = canon.Cosign(size=self.size if size is None else size, lines="".join(lines))
        return await self.canon.cosign(asked)

    async def witnessed(self):
        shown = (await self.canon.reading.checkpoint()).witnessed
        return 0 if shown is None else checkpoint.open_signed(shown.encode(), self.log_key).size

    async def contradictions(self):
        page = await self.canon.reading.events(canon.Events(first=0, limit=2000, kinds=("log_contradiction",)))
        return [record.check(placed.signed()).payload for placed in page.items]

    # What the notary asks: follower, bus, author.

    async def wait_bootstrapped(self):
        return

    async def opened(self, data):
        return checkpoint.open_by_size(data, self.state.log_key_at)

    async def call(self, command, request):
        answers = {
            canon.CHECKPOINT: lambda _: self.canon.reading.checkpoint(),
            canon.GROWN: self.canon.reading.grown,
            canon.COSIGN: self.canon.cosign,
            canon.EVENTS: self.canon.reading.events,
            canon.BEYOND: self.beyond,
        }
        return await answers[command](request)

    async def beyond(self, shown):
        """What the writer's service makes of a note."""
        memory = remembered.Remembered(None, lambda: self.state)
        try:
            reason = memory.judge(self.canon.writer.head, shown.note.encode())
        except note.NoteError as error:
            raise Refused(Code.SIGNATURE_INVALID, str(error)) from error
        if reason is not None:
            self.canon.writer.turn_read_only(reason)
        return canon.Judged(size=self.size, read_only=self.canon.writer.read_only)

    async def audit(self, kind, payload, *, id):  # noqa: A002 - the field's name
        signer = self.world.instances["notary"]
        signed = record.build(
            kind,
            payload,
            id=id,
            tenant="default",
            ts=clock.format_ms(self.world.now_ms),
            space="audit",
            signer=signer,
            salt=bytes(16),
            prev=self.world.state.chains.get(signer.key_id),
        )
        await self.world.call(self.canon, signed)


@pytest_asyncio.fixture(loop_scope="session")
async def study():
    """Re-verified at the end, whatever a test did."""
    made = Study()
    await made.start()
    yield made
    page = await made.canon.reading.events(canon.Events(first=0, limit=2000))
    await made.canon.stop()
    oracle.check(page.items, made.canon.writer.head.note, made.world.state.genesis_hash)


# What the writer keeps and readers show


async def test_records_are_witnessed_from_the_checkpoint_that_has_enough(study):
    """None asked for; then not yet; then witnessed up to the size that c of the policy's cosigners signed, and proofs carry the lines."""
    first = record.check(study.world.log[0]).core.id
    assert (await study.canon.reading.get(ROOT, canon.Get(id=first))).witnessed == "not required"
    await study.name(2, (KEYS[0], None), (KEYS[1], None), (KEYS[2], None))
    size, data = study.size, study.canon.writer.head.note
    assert (await study.canon.reading.get(ROOT, canon.Get(id=first))).witnessed == "not yet"
    assert await study.cosign(study.line(0)) == canon.Cosigned(size=size, have=1, need=2)
    assert await study.witnessed() == 0
    await study.grow()
    assert (await study.cosign(study.line(2, data), size=size)).have == 2
    assert await study.witnessed() == size
    page = await study.canon.reading.records(ROOT, canon.ListRecords(space="system", limit=500))
    assert {item.seq: item.witnessed for item in page.items}[size] == "not yet"
    assert {item.witnessed for item in page.items if item.seq < size} == {"witnessed"}
    bundle = await study.canon.reading.proof(ROOT, canon.Prove(id=first))
    assert bundle.witnessed == "witnessed"
    proof = tlog_proof.parse(bundle.proof.encode())
    leaf = merkle.leaf_hash(bytes(study.world.log[0].header))
    assert tlog_proof.verify(proof, leaf, study.log_key, KEYS, needed=2).verified
    newest = record.check(study.world.log[-1]).core.id
    bundle = await study.canon.reading.proof(ROOT, canon.Prove(id=newest))
    assert bundle.witnessed == "not yet"
    proof = tlog_proof.parse(bundle.proof.encode())
    leaf = merkle.leaf_hash(bytes(study.world.log[-1].header))
    assert tlog_proof.verify(proof, leaf, study.log_key).verified


async def test_only_lines_of_the_policy_over_this_very_checkpoint_are_kept(study):
    """A stranger, another checkpoint's line, a size that is no checkpoint, what is no line: each its own refusal, and nothing is kept."""
    await study.name(1, (KEYS[0], None))
    other = checkpoint.Checkpoint(study.world.origin, study.size, bytes(32)).text()
    for lines, size, code in (
        (study.line(1), None, Code.KEY_NOT_ALLOWED),
        (study.line(0) + study.line(1), None, Code.KEY_NOT_ALLOWED),
        (checkpoint.cosign(other, KEYS[0].name, SIGNERS[0], NOW_S), None, Code.SIGNATURE_INVALID),
        (study.line(0), study.size - 1, Code.SIGNATURE_INVALID),
        (study.line(0), study.size + 1, Code.NOT_FOUND),
        ("nonsense", None, Code.BAD_INPUT),
        (study.line(0) + "\n", None, Code.BAD_INPUT),
    ):
        with pytest.raises(Refused) as refused:
            await study.cosign(lines, size=size)
        assert refused.value.code is code, (lines, refused.value)
    assert study.canon.store.disk.cosignatures == {}
    assert await study.witnessed() == 0


async def test_a_forged_row_hides_nothing_and_proves_nothing(study):
    """Whoever can write to the table can't make a witnessed checkpoint, nor spoil one."""
    await study.name(2, (KEYS[0], None), (KEYS[1], None), (KEYS[2], None))
    forged = laws.Cosignature(
        key=KEYS[1].public_key, line=note.Signature(KEYS[1].name, KEYS[1].key_id, bytes(72)).line().encode()
    )
    await study.canon.store.cosign(study.size, [forged])
    await study.cosign(study.line(0))
    assert await study.witnessed() == 0
    await study.cosign(study.line(2))
    assert await study.witnessed() == study.size


async def test_one_that_signs_alone_for_long_takes_nothing_back(study):
    """The newest witnessed checkpoint stays the one that is shown, however many newer ones have too few."""
    await study.name(2, (KEYS[0], None), (KEYS[1], None))
    size = study.size
    await study.cosign(study.line(0), study.line(1))
    for _ in range(8):
        await study.grow()
        await study.cosign(study.line(0))
        assert await study.witnessed() == size


async def test_a_later_line_is_shown_too(study):
    """Whoever signs a checkpoint that has enough already is added to it."""
    await study.name(1, (KEYS[0], None), (KEYS[1], None))
    for number in (0, 1):
        await study.cosign(study.line(number))
        shown = note.parse((await study.canon.reading.checkpoint()).witnessed.encode())
        assert len(checkpoint.cosignatures(shown, KEYS)) == number + 1


async def test_the_policy_in_force_decides(study):
    """A new policy with other cosigners: what the old ones signed counts no more, until the new ones have."""
    await study.name(1, (KEYS[0], None))
    await study.cosign(study.line(0))
    assert await study.witnessed() == study.size
    await study.name(1, (KEYS[1], None))
    assert await study.witnessed() == 0
    await study.cosign(study.line(1))
    assert await study.witnessed() == study.size
    await study.name(0)
    assert (await study.canon.reading.checkpoint()).witnessed is None


# The notary


@contextlib.asynccontextmanager
async def serving(study, number, state):
    """A real witness that knows our log; its URL."""
    vkeys = [study.world.deployment.log]
    with witness.opened(name=KEYS[number].name, signer=SIGNERS[number], vkeys=vkeys, state=state) as one:
        async with witness.serving(one, host="127.0.0.1", port=0) as address:
            yield address


@contextlib.asynccontextmanager
async def answering(answer):
    """Somebody who answers every request like this."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def notary(study):
    async with service.build(study) as one:
        yield one


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(service, "TICK_S", 0.01)
    monkeypatch.setattr(service, "RETRY_MOST_S", 0.05)


def outcomes(study):
    found = study.metrics.cosigned.collect()[0].samples
    return {one.labels["outcome"]: int(one.value) for one in found if one.name.endswith("_total")}


async def test_every_checkpoint_is_cosigned_by_all(study, tmp_path):
    """Two real witnesses, a log that grows: each head is witnessed by both, at the same size."""
    async with serving(study, 0, tmp_path / "a") as a, serving(study, 1, tmp_path / "b") as b, notary(study):
        await study.name(2, (KEYS[0], a), (KEYS[1], b))
        for _ in range(3):
            await until(lambda: _is(study.witnessed, study.size))
            await study.grow()
        await until(lambda: _is(study.witnessed, study.size))
    assert outcomes(study).keys() == {"signed"}


async def _is(question, wanted):
    return await question() == wanted


async def test_one_that_hangs_holds_up_nobody(study, tmp_path):
    """One of two is enough, the other accepts and never answers: the log goes on being witnessed."""

    async def hang(_):
        await asyncio.Event().wait()

    async with answering(hang) as slow, serving(study, 0, tmp_path / "a") as quick, notary(study):
        await study.name(1, (KEYS[0], quick), (KEYS[1], slow))
        for _ in range(3):
            await until(lambda: _is(study.witnessed, study.size))
            await study.grow()
        await until(lambda: _is(study.witnessed, study.size))


LIARS = {
    "nonsense with 200": lambda _: web.Response(text="nonsense"),
    "a stranger's line": lambda _: web.Response(text=note.Signature("x.example", 7, bytes(72)).line()),
    "a line that doesn't verify": lambda _: web.Response(
        text=note.Signature(KEYS[0].name, KEYS[0].key_id, (5).to_bytes(8) + bytes(64)).line()
    ),
    "a megabyte": lambda _: web.Response(text="x" * (1 << 20)),
    "the same size for ever": lambda _: web.Response(status=409, text="1\n", content_type="text/x.tlog.size"),
    "409 without a size": lambda _: web.Response(status=409),
    "not knowing us": lambda _: web.Response(status=404),
    "a fault": lambda _: web.Response(status=500),
}


@pytest.mark.parametrize("lie", LIARS)
async def test_a_liar_changes_nothing(study, tmp_path, lie):
    """Whatever one of two answers, the other's line is kept, nothing of the liar's is, and no contradiction is made of noise."""

    async def answer(request):
        return LIARS[lie](request)

    async with answering(answer) as bad, serving(study, 1, tmp_path / "b") as good, notary(study):
        await study.name(1, (KEYS[0], bad), (KEYS[1], good))
        await until(lambda: _is(study.witnessed, study.size))
        await until(lambda: _failed_often(study))
    kept = study.canon.store.disk.cosignatures
    assert {key for lines in kept.values() for key in lines} == {KEYS[1].public_key}
    assert await study.contradictions() == []


async def _failed_often(study):
    return sum(count for outcome, count in outcomes(study).items() if outcome != "signed") >= 2


async def test_a_redirection_is_not_followed(study):
    """A cosigner can't make the notary ask somebody else."""
    asked = []

    async def elsewhere(request):
        asked.append(request.path)
        return web.Response(text="never")

    async with answering(elsewhere) as other:

        async def answer(_):
            return web.Response(status=307, headers={"Location": other})

        async with answering(answer) as bad, notary(study):
            await study.name(1, (KEYS[0], bad))
            await until(lambda: _failed_often(study))
    assert asked == []


def forked(study, size):
    """What our key signed of another history."""
    leaves = [merkle.leaf_hash(b"fork %d" % n) for n in range(size)]
    return checkpoint.sign(checkpoint.Checkpoint(study.world.origin, size, merkle.root(leaves)), study.world.writer)


async def test_another_history_by_our_own_key_is_recorded_once(study, tmp_path):
    """A cosigner holds a note by our key that can't stand beside our log: proven, alarmed, recorded once, also by the next notary."""
    fork = forked(study, 5)
    async with serving(study, 0, tmp_path / "a") as url, witness_client.Client() as client:
        assert (await client.add_checkpoint(url, checkpoint.AddCheckpoint(0, (), fork))).status == 200
        for _ in range(2):
            async with notary(study):
                await study.name(1, (KEYS[0], url))
                told = study.metrics.contradictions.collect()[0].samples[0].value
                await until(lambda told=told: _told(study, told + 2))
    (found,) = await study.contradictions()
    assert found.proven
    assert found.cosigner == KEYS[0].format()
    assert found.evidence.encode() == fork
    ours = checkpoint.open_signed(found.note.encode(), study.log_key)
    assert ours.size <= study.size
    assert await study.witnessed() == 0


async def test_a_larger_tree_by_our_own_key_ends_the_writing_and_is_not_recorded(study, tmp_path):
    """A cosigner holds more than our log has: the writer is shown the note, and nothing is added to a log that went back."""
    async with serving(study, 0, tmp_path / "a") as url, witness_client.Client() as client:
        asked = checkpoint.AddCheckpoint(0, (), forked(study, 5000))
        assert (await client.add_checkpoint(url, asked)).status == 200
        async with notary(study):
            await study.name(1, (KEYS[0], url))
            size = study.size
            await until(lambda: _told(study, 1))
    assert "signed 5000" in study.canon.writer.read_only
    assert study.size == size
    assert await study.contradictions() == []


async def _told(study, wanted):
    return study.metrics.contradictions.collect()[0].samples[0].value >= wanted


@pytest.mark.parametrize("says", ["409", "422"])
async def test_a_mere_word_is_recorded_as_one_and_once(study, says):
    """A cosigner that claims another history and shows no note of ours: one record that says so, however often its claim changes."""
    claims = iter(range(100_000, 200_000))

    async def answer(request):
        if request.method == "GET":
            return web.Response(status=404)
        if says == "422":
            return web.Response(status=422)
        return web.Response(status=409, text=f"{next(claims)}\n", content_type="text/x.tlog.size")

    async with answering(answer) as url, notary(study):
        await study.name(1, (KEYS[0], url))
        await until(lambda: _told(study, 3))
    (found,) = await study.contradictions()
    assert (found.proven, found.evidence) == (False, "")


async def test_a_cosigner_that_the_policy_drops_is_asked_no_more(study, tmp_path):
    """The governing record is what is followed."""
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(status=404)

    async with answering(answer) as url, serving(study, 1, tmp_path / "b") as good, notary(study):
        await study.name(1, (KEYS[0], url))
        await until(lambda: _is(lambda: _value(bool(asked)), wanted=True))
        await study.name(1, (KEYS[1], good))
        await until(lambda: _is(study.witnessed, study.size))
        before = len(asked)
        for _ in range(3):
            await study.grow()
            await until(lambda: _is(study.witnessed, study.size))
        assert len(asked) <= before + 1


async def _value(value):
    return value


async def test_a_reader_that_lies_about_the_way_convinces_nobody(study):
    """A proof that doesn't lead to the signed root is found out before anybody is asked, and convicts no log."""
    head = rules.target(study.canon.writer.head.note, study.state.log_key_at)
    grown = await study.canon.reading.grown(canon.Consistency(old=3))
    root, path = rules.proven(grown, 3, head.checkpoint)
    assert root == merkle.root([merkle.leaf_hash(bytes(one.header)) for one in study.world.log[:3]])
    assert merkle.verify_consistency(3, root, head.size, head.checkpoint.root, path)
    for change in (
        {"old_root": note.encode_base64(bytes(32))},
        {"hashes": grown.hashes[:-1]},
        {"hashes": grown.hashes[::-1]},
        {"old": 4},
        {"new": grown.new - 1},
    ):
        with pytest.raises(rules.Liar):
            rules.proven(msgspec.structs.replace(grown, **change), 3, head.checkpoint)


def test_a_target_carries_no_strangers_line(study):
    """What is shown as evidence, and what cosigners are sent, holds the log's own signature only."""
    data = study.canon.writer.head.note
    with_more = data + study.line(0).encode() + note.Signature("x.example", 7, bytes(9)).line().encode()
    assert rules.target(with_more, study.state.log_key_at).note == data


def test_what_is_shown_of_older_sizes_is_read_by_the_key_of_that_size():
    """After the log's key was rotated, the old key's other history still convicts; neither key speaks for the other's sizes."""
    world = World()
    world.change_model()
    size, forged = len(world.log), checkpoint.Checkpoint(world.origin, len(world.log), bytes(32))
    old = world.rotate_log()
    keys = world.state.log_key_at
    head, other = rules.target(world.checkpoint(), keys), rules.shown(checkpoint.sign(forged, old), keys)
    assert (head.size, other.size) == (len(world.log), size)
    our_root = merkle.root([merkle.leaf_hash(bytes(one.header)) for one in world.log[:size]])
    assert rules.forked(KEYS[0], head, other, our_root).payload.proven
    assert rules.shown(checkpoint.sign(forged, world.writer), keys) is None
    late = checkpoint.Checkpoint(world.origin, head.size, bytes(32))
    assert rules.shown(checkpoint.sign(late, old), keys) is None
