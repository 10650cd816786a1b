"""A service that was taken over, and JetStream: what it asks is answered in the house, whatever subject it names.

JetStream sends its answers, and what is pulled, to the subject that a request names as its reply, and asks nobody's permission for that;
and a consumer may name a subject to push to. So the stream has an account of its own. A tap in it hears every word: there are none but the
questions that the house's doors let in, the answers on their way back over the border, and what the keeper says.
"""

import asyncio
import json

import pytest
import pytest_asyncio

from sigilcore.contracts import canon, house
from sigilrun import identities, testing
from tests.faults.consuming import PATIENCE_S
from tests.faults.test_writer_crash import Place

STREAM = house.stream("default")
FOLLOWERS = [one.name for one in identities.EVERYONE if one.follows]
ELSEWHERE = (
    house.event_subject("default", "user", "memory_block"),
    house.event_subject("default", "audit", "session_closed"),
    f"$JS.API.STREAM.PURGE.{STREAM}",
    f"$JS.API.STREAM.DELETE.{STREAM}",
    f"canon.stream.CONSUMER.DELETE.{STREAM}.nobody",
    canon.APPEND.subject,
    canon.REFILL.subject,
    f"_INBOX_{house.KEEPER}.x.1",
    "_INBOX_gatekeeper.x.1",
)
INFO = f"STREAM.INFO.{STREAM}"
# What follows from a question of the house's own, and is no word of anybody's: the server's account of it, the answer, what was pulled.
_BESIDE = ("$JS.EVENT.ADVISORY.", "_R_.", "pulled ")


class Stage:
    """A founded log, its writer, and somebody with the machine who hears all that is said in the stream's account."""

    def __init__(self, place, tap):
        self.place = place
        self.tap = tap
        self.heard = []

    def hear(self, message):
        """A message that JetStream sends from the stream is told by the stream's own subject, wherever it goes."""
        pulled = message.reply.startswith("$JS.ACK.")
        self.heard.append(f"pulled {message.subject}" if pulled else message.subject)

    async def asked(self, verb):
        """What JetStream says to who has the machine."""
        return json.loads((await self.tap.request(f"$JS.API.{verb}", b"", timeout_s=5)).data)

    async def state(self):
        """What the stream holds."""
        state = (await self.asked(INFO))["state"]
        return {
            name: state[name] for name in ("first_seq", "last_seq", "messages", "bytes", "num_deleted") if name in state
        }

    async def answered(self, count):
        """Return once JetStream has sent so many answers, besides what was pulled."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(one.startswith("_R_.") for one in self.heard) < count:
                await self.tap.flush()

    def said(self):
        """What was said in the stream's account since it was last asked."""
        said = {one for one in self.heard if not one.startswith((*_BESIDE, "_INBOX_demolisher."))}
        self.heard.clear()
        return said - {f"$JS.API.{INFO}"}

    async def writes_on(self):
        """The next record is committed and published, and the stream holds what the ledger holds."""
        self.place.write(1)
        await self.place.world.send(self.place.pen)
        await self.place.check(len(self.place.world.log))


@pytest_asyncio.fixture(loop_scope="session", scope="module", name="stage")
async def _stage(postgres_server, tmp_path_factory):
    async with testing.bus_house(tmp_path_factory.mktemp("account") / "house") as buses:
        place = Place(buses, await postgres_server.database())
        await place.start()
        async with place.writing():
            made = Stage(place, await buses.tap())
            place.write(5)
            await made.writes_on()
            await made.tap.subscribe(">", made.hear)
            yield made


async def consumer(bus, name, **more):
    """Make a consumer of the whole stream, as a follower does; what JetStream says to it."""
    config = {"name": name, "deliver_policy": "all", "ack_policy": "none", "mem_storage": True, **more}
    asked = json.dumps({"stream_name": STREAM, "config": config, "action": "create"})
    reply = await bus.request(f"canon.stream.CONSUMER.CREATE.{STREAM}.{name}", asked.encode(), timeout_s=5)
    return json.loads(reply.data)


async def pulled_one(bus, name):
    """Pull a message by a consumer, honestly."""
    inbox, arrived = bus.new_inbox(), asyncio.Event()
    await bus.subscribe(inbox, lambda _: arrived.set())
    await bus.publish(f"canon.stream.CONSUMER.MSG.NEXT.{STREAM}.{name}", b'{"batch":1}', reply=inbox)
    async with asyncio.timeout(PATIENCE_S):
        await arrived.wait()


@pytest.mark.parametrize("reply", ELSEWHERE)
@pytest.mark.parametrize("name", FOLLOWERS)
async def test_no_answer_of_jetstream_is_sent_where_one_may_not_speak(stage, name, reply):
    """Every verb that an identity may say, with a subject that isn't its own as the reply: the stream is as it was, in its account nothing
    is heard but the questions, and the writer writes on."""
    bus = await stage.place.buses.bus(name)
    await bus.subscribe(
        house.outside_events("default"), lambda _: None
    )  # what is pulled is sent only where somebody hears
    await consumer(bus, "x")
    before = await stage.state()
    await stage.tap.flush()
    stage.heard.clear()
    create = json.dumps({"stream_name": STREAM, "config": {"name": "y", "ack_policy": "none"}}).encode()
    verbs = {
        INFO: b"",
        f"CONSUMER.CREATE.{STREAM}.y": create,
        f"CONSUMER.MSG.NEXT.{STREAM}.x": b'{"batch":3}',
        f"CONSUMER.DELETE.{STREAM}.y": b"",
    }
    for verb, body in verbs.items():
        await bus.publish(f"canon.stream.{verb}", body, reply=reply)
    await pulled_one(bus, "x")  # pulls are filled in order
    await stage.answered(3)
    await bus.request(f"canon.stream.CONSUMER.DELETE.{STREAM}.x", b"", timeout_s=5)
    assert await stage.state() == before
    let_in = {
        f"$JS.API.CONSUMER.DELETE.{STREAM}.{one}" for one in ("x", "nobody")
    }  # the second: an answer, as a question
    assert stage.said() <= let_in | {f"$JS.API.{verb}" for verb in verbs}
    await stage.writes_on()


@pytest.mark.parametrize("subject", ELSEWHERE)
async def test_nothing_is_pushed_where_one_may_not_speak(stage, subject):
    """A consumer that names a subject to push to names it in the stream's account: JetStream refuses those of the events, and at no other
    does anybody listen, so nothing is sent."""
    bus = await stage.place.buses.bus("projections")
    told = await consumer(bus, "pushing", deliver_subject=subject)
    assert ("error" in told) == subject.startswith(house.EVENTS)
    await stage.writes_on()
    if "error" not in told:
        pushing = await stage.asked(f"CONSUMER.INFO.{STREAM}.pushing")
        assert (pushing["delivered"]["consumer_seq"], pushing["num_pending"]) == (0, len(stage.place.world.log))
        await bus.request(f"canon.stream.CONSUMER.DELETE.{STREAM}.pushing", b"", timeout_s=5)
