"""Each step of a commit, each way to fail there: what was acknowledged stands once, what wasn't is answered truly, and the ledger verifies.

One table for errors that Postgres meets inside the transaction, one for a writer that is killed at its own steps, one for the publisher.
Whatever happened, the author's way is the same: the very same bytes again, until the writer says what became of them.
"""

import asyncio
import contextlib
import signal

import pytest
import pytest_asyncio

from sigilcore import decision, ids, record
from sigilcore.contracts import canon
from sigilcore.records import user
from sigilcore.refusals import Code, Refused
from sigilrun import testing
from tests import oracle
from tests.faults import test_writer_crash as crash
from tests.faults.test_writer_crash import PATIENCE_S, Place

# What a commit does, in its order: the table that a statement of it writes, and how.
STATEMENTS = [
    ("record", "insert"),
    ("data_key", "update"),  # an erasure
    ("data_key", "insert"),
    ("tile", "insert"),
    ("checkpoint", "insert"),
]
AT_COMMIT = ("checkpoint", "insert, at COMMIT")

ARM = """
create sequence public.crash_fault; grant usage on sequence public.crash_fault to public;
create function public.crash_fault() returns trigger language plpgsql security definer as $$
begin
    if nextval('public.crash_fault') = 1 then {fault}; end if;
    return new;
end $$;
create {kind} trigger crash_fault after {event} on canon.{table} {when} for each row execute function public.crash_fault();
alter table canon.{table} enable always trigger crash_fault;
"""
DISARM = "drop function public.crash_fault cascade; drop sequence public.crash_fault;"
FAULTS = {
    "I/O error": "raise exception 'could not read block' using errcode = '58030'",
    "out of memory": "raise exception 'out of memory' using errcode = '53200'",
    "disk full": "raise exception 'no space left on device' using errcode = '53100'",
    "connection killed": "perform pg_terminate_backend(pg_backend_pid())",
}
# Long enough to be found asleep there; who kills doesn't wait for its end.
SLEEP = "perform pg_sleep(0.5)"


class Impatient:
    """The pen, by an author who asks again soon: most of the time in these rows an answer was lost with its writer."""

    def __init__(self, pen):
        self._pen = pen

    async def append(self, request):
        return await self._pen.bus.call(canon.APPEND, request, timeout_s=0.5)

    async def bootstrap(self, request):
        return await self._pen.bootstrap(request)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(postgres_server, tmp_path_factory):
    """One log for all rows of the tables: what one row leaves, the next one stands on."""
    async with testing.bus_house(tmp_path_factory.mktemp("crash") / "house") as buses:
        made = Place(buses, await postgres_server.database())
        await made.start()
        made.pen = Impatient(made.pen)
        async with made.writing():
            await made.world.send(made.pen)
            made.world.remember(made.ada, "erased", "text")
            await made.world.send(made.pen)
        yield made


@contextlib.asynccontextmanager
async def armed(place, step, fault):
    """The first row that this statement touches meets the fault; no later one does."""
    table, event = step
    deferred = step == AT_COMMIT
    statement = ARM.format(
        table=table,
        event=event.partition(",")[0],
        fault=fault,
        kind="constraint" if deferred else "",
        when="deferrable initially deferred" if deferred else "",
    )
    async with place.database.connection() as superuser:
        await superuser.execute(statement)
        try:
            yield
            assert await superuser.fetchval("select is_called from public.crash_fault"), "the step was never reached"
        finally:
            await superuser.execute(DISARM)


def erasure(place):
    """Ada erases the memory that the fixture, or the last of these, wrote; and writes it again."""
    world = place.world
    granted = world.granted(place.ada, "canon/user/erase", b"{}")
    thing = "mem::ada::erased"
    live = []
    for one in map(record.check, world.log):
        if one.kind.thing_name(one.payload) == ("memory_block", "ada", thing):
            live = [] if one.kind.erases else [*live, one.core.id]
    request = decision.Request(command=granted.command, salt=granted.salt, digest=granted.digest, parameters="0" * 64)
    payload = user.Erasure(owner="ada", kind="memory_block", key=thing, records=tuple(live), request=request)
    link = record.Link(label="decision", target=granted.decision.link())
    head = world.heads[("memory_block", "ada", thing)]
    world.append("erasure", payload, world.instances["knowledge"], links=[link], prev=head)
    world.remember(place.ada, "erased", "again")


def work(place, step):
    """Records whose commits take this step, in the world's own log."""
    if step[0] == "tile":
        while (len(place.world.log) + 1) % 256:
            place.world.close(ids.new(), "someone")
    if step == ("data_key", "update"):
        erasure(place)
    place.world.remember(place.ada, f"thing-{len(place.world.log)}")


async def until_it_stands(place, pen):
    """Everything that the world wrote, one call a record, each until it has its place."""
    async with asyncio.timeout(2 * PATIENCE_S):
        while place.world.sent < len(place.world.log):
            try:
                await place.world.send(pen)
            except Refused as refused:
                if refused.code not in {Code.UNAVAILABLE, Code.BUSY, Code.DISK_LOW}:
                    raise
                await asyncio.sleep(0.05)


async def answering(place):
    """Return once a writer answers: genesis has its place."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(Refused):
                await place.pen.bootstrap(place.world.genesis)
                return
            await asyncio.sleep(0.02)


async def verified(place):
    """The oracle over what Postgres holds, which is what the world wrote, record by record."""
    placed = await place.records()
    async with place.shelf() as shelf:
        head = await shelf.head()
    oracle.check(placed, head.note, place.world.state.genesis_hash)
    assert [bytes(one.header) for one in placed] == [bytes(one.header) for one in place.world.log]


# Inside the transaction


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", [*STATEMENTS, AT_COMMIT], ids=" ".join)
async def test_a_statement_that_fails_leaves_nothing_behind(place, step, fault):
    """Postgres meets an error in one statement of the commit, or at COMMIT itself: nothing of the batch is there, and it is taken anew."""
    async with place.committing() as pen:
        work(place, step)
        async with armed(place, step, FAULTS[fault]):
            await until_it_stands(place, pen)
        await verified(place)


@pytest.mark.parametrize("persisted", [False, True], ids=["and its backend", "and not its backend"])
@pytest.mark.parametrize("step", [STATEMENTS[0], AT_COMMIT], ids=" ".join)
async def test_a_writer_killed_inside_its_transaction(place, step, persisted):
    """kill -9 while Postgres is at work: it finishes what it was told to, or, killed too, forgets it. The next writer tells which."""
    place.world.close(ids.new(), "someone")
    async with crash.spawned(place) as child:
        await answering(place)
        async with armed(place, step, SLEEP):
            sending = asyncio.create_task(until_it_stands(place, place.pen))
            async with place.database.connection() as superuser:
                backend = await _asleep(superuser)
                child.send_signal(signal.SIGKILL)
                await child.wait()
                if not persisted:
                    await superuser.execute("select pg_terminate_backend($1, 5000)", backend)
            async with place.writing():
                await sending
                # A batch that Postgres finished stands before anybody asks for it again.
                assert place.world.receipts[-1].results[0].existing is persisted
                await place.stream_reaches(len(place.world.log))
    await verified(place)


async def _asleep(superuser):
    """The backend that has reached the fault."""
    async with asyncio.timeout(PATIENCE_S):
        while not (
            found := await superuser.fetchval("select pid from pg_stat_activity where wait_event = 'PgSleep' limit 1")
        ):
            await asyncio.sleep(0.005)
    return found


# The writer's own steps

DIE = "os.kill(os.getpid(), signal.SIGKILL)"
# Where the writer is killed, by a change to its own code; and whether the record stands by then.
STEPS = {
    "before the transaction": (False, "store.PostgresStore", "commit", "before"),
    "after the commit, before the answer": (True, "store.PostgresStore", "commit", "after"),
    "before the event": (True, "bus.Bus", "publish_events", "before"),
    "after the event, before the position moved": (True, "bus.Bus", "publish_events", "after"),
    "before the high-water file is replaced": (True, "high_water.HighWater", "_replace", "before"),
    "after the high-water file is replaced": (True, "high_water.HighWater", "_replace", "after"),
    "after Postgres is the writer's, before the fold is loaded": (False, "store.PostgresStore", "open", "after"),
}
PROGRAM = """
import asyncio, inspect, os, runpy, signal, sys
from services.canon_writer import high_water, store
from sigilrun import bus

def dying(at, when):
    async def later(self, *given, **named):
        if when == "before":
            {die}
        done = await at(self, *given, **named)
        {die}
    def now(self, *given, **named):
        if when == "before":
            {die}
        done = at(self, *given, **named)
        {die}
    return later if inspect.iscoroutinefunction(at) else now

{owner}.{name} = dying({owner}.{name}, "{when}")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("step", STEPS)
async def test_a_writer_killed_at_its_own_steps(place, step, tmp_path):
    """kill -9 between two steps: the next writer answers the same bytes with the first place or a new one, and the stream is whole."""
    persisted, owner, name, when = STEPS[step]
    program = tmp_path / "dying.py"
    program.write_text(PROGRAM.format(die=DIE, owner=owner, name=name, when=when))
    place.world.close(ids.new(), "someone")
    async with crash.spawned(place, program) as child:
        sending = asyncio.create_task(until_it_stands(place, place.pen))
        async with asyncio.timeout(PATIENCE_S):
            assert await child.wait() == -signal.SIGKILL
    # The record may have been answered before what comes after it was killed.
    answered = sending.done()
    async with place.writing():
        await sending
        if not answered:
            assert place.world.receipts[-1].results[0].existing is persisted
        await place.stream_reaches(len(place.world.log))
    await verified(place)


# The publisher


@pytest.mark.parametrize("persisted", [False, True], ids=["and did not persist", "and did persist"])
@pytest.mark.parametrize("count", [1, 40], ids=["one event", "a batch"])
async def test_a_publishing_that_fails(place, count, persisted):
    """The stream's answer is an error, or is lost though the events stand: nothing is missing in the stream, nothing stands twice."""
    async with place.writing() as one:
        await place.stream_reaches(len(place.world.log))
        keeper = one.service.publisher._bus
        publish, failed = keeper.publish_events, []

        async def failing(events, last):
            if failed:
                return await publish(events, last)
            failed.append(len(events))
            if persisted:
                await publish(events, last)
            raise Refused(Code.UNAVAILABLE, "no answer in time")

        keeper.publish_events = failing
        for _ in range(count):
            place.world.close(ids.new(), "someone")
        await until_it_stands(place, place.pen)
        await place.stream_reaches(len(place.world.log))
        assert failed
    await verified(place)
