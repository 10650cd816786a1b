"""The ledger against a model of a few lines: appends, proposals, attestations and commits in any order, with crashes and faults in between.

What the model knows: which records were acknowledged, and where; which were refused; which decision was used; who has attested what; how
many voices a change of the system needs. What must be true after every step: the acknowledged stand where it was said, each once; the
refused stand nowhere; the answer to the next call is the one that the model predicts. At the end the oracle judges the whole ledger.

The canon in memory takes the long run; Postgres takes a short one, by the same steps.
"""

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from services.canon_writer import committer, laws, memory, store
from services.canon_writer.laws import Query
from sigilcore import record
from sigilcore.access import Loa
from sigilcore.contracts import canon
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.canonworld import World, code_of
from tests.payloadkey import ONE
from tests.services.test_canon_writer import session
from tests.simulator import Person

VOICES = 3
NEED = 2
FAULTS = {
    "lost before": laws.Lost("connection reset"),
    "lost after": laws.Lost("connection reset"),
    "full": laws.Full("no space left"),
    "moved": laws.Moved("the head is elsewhere"),
    "ours": RuntimeError("a fault of ours"),
}
BOUNDS = committer.Bounds(retry_first_s=0.001, retry_most_s=0.002, wait_s=0.02)


def failing(kind):
    """A store of this kind whose next commit meets a fault, and which may be down for a few looks afterwards."""

    class Failing(kind):
        fault = ""
        down = 0

        async def open(self):
            if self.down:
                self.down -= 1
                raise laws.Lost("the store is down")
            await super().open()

        async def commit(self, batch):
            fault, self.fault = self.fault, ""
            if fault and fault != "lost after":
                raise FAULTS[fault]
            await super().commit(batch)
            if fault:
                raise FAULTS[fault]

    return Failing


class Proposal:
    """A change of the system, signed by Root; who has attested it; whether it stands."""

    def __init__(self, signed, head):
        self.signed = signed
        self.head = head  # the system record that it stands on
        self.voices = {}
        self.seq = None


class Ledger(RuleBasedStateMachine):
    """One log, its writers one after the other, and what must be true of it."""

    decisions = Bundle("decisions")
    stood = Bundle("stood")
    proposals = Bundle("proposals")

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.acknowledged = {}
        self.refused = set()
        self.unknown = []  # at most one call: who doesn't know what became of it does nothing else before
        self.numbers = iter(range(10**6))
        self.world = World()
        self.ada = self.world.issue(Person("ada"), Loa.OPERATOR)
        self.voices = self.world.mentors(VOICES)
        self.world.seal(self.voices, NEED)

    # The canon: in memory here, elsewhere in Postgres.

    async def fresh(self):
        """A store for the next writer, on what there is."""
        if not hasattr(self, "disk"):
            self.disk = memory.Disk()
        return failing(memory.MemoryStore)(self.disk)

    async def rows(self):
        return self.disk.rows

    async def gone(self):
        """The end of a writer's store."""

    @initialize()
    def founded(self):
        self.run(self._start())
        self.run(self.world.send(self))
        self.acknowledged = {one.results[0].id: one.results[0].seq for one in self.world.receipts}

    async def _start(self):
        self.store = await self.fresh()
        self.writer = committer.Committer(
            self.store,
            signer=self.world.writer,
            deployment=self.world.deployment,
            clock=self.world.clock,
            bounds=BOUNDS,
        )
        await self.writer.load()
        self.task = asyncio.create_task(self.writer.run())

    async def _end(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.gone()

    def run(self, work):
        return self.runner.run(work)

    async def append(self, request):
        """The pen, by an author's way: again, while nothing was written for certain."""
        while True:
            try:
                return await self.writer.append(request)
            except RuntimeError:
                continue
            except Refused as why:
                if why.code is not Code.DISK_LOW:
                    raise

    async def bootstrap(self, request):
        return await self.writer.bootstrap(request)

    def call(self, signed, *codes):
        """One call; its answer is the model's: it stands, or one of these refusals."""
        name = record.open_header(bytes(signed.header))[0].core.id
        self.refused.discard(name)  # a proposal without enough voices yet
        try:
            answer = self.run(self.world.call(self, signed))
        except Refused as why:
            assert (why.code, why.detail) == (Code.UNAVAILABLE, {"outcome": "unknown"})
            self.unknown.append((signed, codes))
            return None
        if codes:
            assert code_of(answer) in codes
            self.refused.add(name)
            return None
        (result,) = answer.results
        assert result.refusal is None, result.refusal
        assert result.seq == self.acknowledged.setdefault(name, result.seq)
        return result.seq

    # What people and services do.

    def settled(self):
        """Whoever doesn't know what became of a call asks before doing anything else: the same bytes tell."""
        while self.unknown:
            signed, codes = self.unknown.pop()
            self.call(signed, *codes)

    @rule(target=decisions)
    def decide(self):
        """The gate allows Ada a write, and says so in the log."""
        self.settled()
        granted = self.world.granted(self.ada, "memory/write")
        before = self.world.sent
        while self.world.sent < len(self.world.log):
            try:
                self.run(self.world.send(self))
            except Refused as why:
                assert why.code is Code.UNAVAILABLE
        for seq in range(before, len(self.world.log)):
            self.acknowledged[record.check(self.world.log[seq]).core.id] = seq
        return granted

    @rule(target=stood, granted=consumes(decisions))
    def append_an_effect(self, granted):
        """A memory, under its decision."""
        self.settled()
        signed = self.world.memory(granted, f"key-{next(self.numbers)}")
        self.call(signed)
        return signed, granted

    @rule(before=stood)
    def use_a_decision_again(self, before):
        """Another record under a decision that was used."""
        self.settled()
        _, granted = before
        self.call(self.world.memory(granted, f"key-{next(self.numbers)}"), "DECISION_USED")

    @rule(before=stood)
    def send_the_same_again(self, before):
        """Acknowledged once: its first place again."""
        self.settled()
        signed, _ = before
        assert self.call(signed) is not None or self.unknown

    @rule(target=proposals)
    def propose(self):
        """Root signs a change on the newest system record."""
        self.settled()
        payload = self.world.new_model(f"model-{next(self.numbers)}")
        return Proposal(self.world.proposal("model_config", payload), self.world.state.system_head)

    @rule(proposal=proposals, voice=st.integers(0, VOICES - 1))
    def attest(self, proposal, voice):
        """A witness's voice; twice is once."""
        if proposal.seq is None:
            proposal.voices[voice] = self.voices[voice]

    @rule(proposal=proposals)
    def commit(self, proposal):
        """It stands with enough voices and on the newest system record, and is answered with its place ever after."""
        self.settled()
        whole = self.world.attested(proposal.signed, *proposal.voices.values())
        codes = []
        if proposal.seq is None:
            if len(proposal.voices) < NEED:
                codes.append("QUORUM_NOT_SATISFIED")
            if proposal.head != self.world.state.system_head:
                codes.append("STALE_PREV")
        seq = self.call(whole, *codes)
        if not codes:
            proposal.seq = seq if seq is not None else -1

    # What happens to the writer.

    @rule(fault=st.sampled_from(sorted(FAULTS)), down=st.integers(0, 3) | st.just(60))
    def fail_next(self, fault, down):
        """The next commit fails, and the store is away for so many looks."""
        self.store.fault, self.store.down = fault, down

    @rule()
    def crash(self):
        """Nothing is left of the writer's memory; another one loads what is durable."""
        self.run(self._end())
        self.run(self._start())

    @rule()
    def take_over(self):
        """Another writer begins while the first one still runs: that one writes no more."""
        old, task, mine = self.writer, self.task, self.store
        mine.fault, mine.down = "", 0
        self.run(self._start())
        size = len(self.run(self.rows()))
        with pytest.raises(Refused) as refused:
            self.run(old.append(canon.Append(records=(session(self.world),))))
        assert refused.value.code is Code.UNAVAILABLE
        assert len(self.run(self.rows())) == size

        async def end():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await mine.close()

        self.run(end())

    @rule()
    def ask_again(self):
        """The same bytes tell what became of them."""
        self.settled()

    # What must be true.

    @invariant()
    def what_was_said_is_so(self):
        """The acknowledged stand where it was said; the refused nowhere; nothing stands twice."""
        if not self.acknowledged:
            return
        places = {row.id: row.seq for row in self.run(self.rows())}
        assert {name: places.get(name) for name in self.acknowledged} == self.acknowledged
        assert not self.refused & places.keys()
        assert len(places) == len(self.run(self.rows()))
        assert sorted(places.values()) == list(range(len(places)))
        assert self.writer.read_only is None

    def teardown(self):
        try:
            if self.acknowledged:
                self.settled()
                self.run(self._judge())
        finally:
            try:
                self.run(self._end())
            finally:
                self.runner.close()

    async def _judge(self):
        placed = [row.placed() for row in await self.rows()]
        head = await self.store.head()
        oracle.check(placed, head.note, self.world.state.genesis_hash)
        assert [bytes(one.header) for one in placed] == [bytes(one.header) for one in self.world.log]


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_the_canon_in_memory_keeps_the_model():
    """Any order of steps, faults and crashes."""
    run_state_machine_as_test(
        Ledger, settings=settings(max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=QUIET)
    )


def test_postgres_keeps_the_model(database):
    """The same steps on a real database, emptied before each run by whoever owns the machine."""

    class OnPostgres(Ledger):
        emptied = False

        async def fresh(self):
            if not self.emptied:
                for table in ("record", "checkpoint", "tile", "data_key", "cosignature", "witnessed"):
                    await database.tamper(f"delete from canon.{table}")
                self.emptied = True
            return await failing(store.PostgresStore).connect(
                database.options("canon_writer"), "default", ONE, unseen_s=-1
            )

        async def rows(self):
            return await self.store.rows(Query(first=0, end=100_000, limit=100_000))

        async def gone(self):
            await self.store.close()

    run_state_machine_as_test(
        OnPostgres,
        settings=settings(max_examples=4, stateful_step_count=15, deadline=None, suppress_health_check=QUIET),
    )
