"""The bus on a real nats-server: what crosses, what doesn't, and what each failure is called."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from sigilcore import faults
from sigilcore.contracts import canon, catalogue, common, gatekeeper, house, quorum
from sigilcore.contracts import license as licence_contract
from sigilcore.refusals import Code, Refused
from sigilrun import answer, identities, stream, testing, wire
from sigilrun.bus import Bus

SECRET = "postgresql://canon_writer:hunter2@db/sigil"

INVENTED_HANDLERS = True  # what they refuse is no contract's


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[testing.BusHouse]:
    """One server for the tests that don't hurt it."""
    async with testing.bus_house(tmp_path_factory.mktemp("bus") / "house") as running:
        yield running


async def checkpoint(incoming: answer.Incoming) -> canon.Checkpoint:
    """An answer that says by whom and with what it was asked."""
    return canon.Checkpoint(note=incoming.body.decode(), sealed=False, bootstrapped=True)


def events(first: int, upto: int) -> list[stream.Event]:
    """Change events with these seqs."""
    return [
        stream.Event(
            subject=house.event_subject(testing.TENANT, "audit", "session_opened"),
            message_id=f"{testing.TENANT}:{seq}",
            body=b"%d" % seq,
            headers={"ce-id": str(seq)},
        )
        for seq in range(first, upto)
    ]


async def read(feed: stream.Feed, count: int, timeout_s: float = 10.0) -> list[stream.Message]:
    """So many messages, however they come."""
    found: list[stream.Message] = []
    async with asyncio.timeout(timeout_s):
        while len(found) < count:
            try:
                found += await feed.fetch(500, 1)
            except (Refused, stream.StreamMissing):
                await asyncio.sleep(0.02)
    return found


# Calls


async def test_a_call_crosses_with_its_very_bytes(served: testing.BusHouse) -> None:
    """A body of bytes arrives as it was sent, since permits bind it."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")
    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: checkpoint})
    odd = b'{ "a" :1 }'
    assert (await gate.call(canon.CHECKPOINT, odd)).note == odd.decode()
    assert (await gate.call(canon.CHECKPOINT, common.Empty())).note == "{}"
    await answering.stop()


async def test_a_refusal_crosses_whole(served: testing.BusHouse) -> None:
    """Code, message, field and detail are the same on the other side."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")

    async def refuse(_: answer.Incoming) -> canon.Checkpoint:
        raise Refused(Code.BEYOND_HEAD, "the log has 3 records", field="$.first", detail={"head": 3})

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: refuse})
    with pytest.raises(Refused) as caught:
        await gate.call(canon.CHECKPOINT, common.Empty())
    refused = caught.value
    assert (refused.code, refused.message, refused.field, refused.detail) == (
        Code.BEYOND_HEAD,
        "the log has 3 records",
        "$.first",
        {"head": 3},
    )
    await answering.stop()


@pytest.mark.parametrize(
    "failure",
    [RuntimeError(SECRET), KeyError(SECRET), faults.Corrupt(SECRET), ExceptionGroup(SECRET, [ValueError(SECRET)])],
)
async def test_a_fault_tells_its_trace_id_and_nothing_else(served: testing.BusHouse, failure: Exception) -> None:
    """An exception's words stay in our log; on the bus there is only the trace id that finds them."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")

    async def fail(_: answer.Incoming) -> canon.Checkpoint:
        raise failure

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: fail})
    with structlog.testing.capture_logs() as logged:
        reply = await gate.request(canon.CHECKPOINT.subject, b"{}", headers={wire.TRACE: "ab" * 16}, timeout_s=2)
    assert json.loads(reply.data) == {"trace_id": "ab" * 16}
    assert dict(reply.headers) == {wire.ERROR: "FAULT", wire.ERROR_CODE: "500"}
    assert any(line["event"] == "fault" and line.get("exc_info") for line in logged)
    with pytest.raises(faults.Fault, match="cd" * 16):
        await gate.call(canon.CHECKPOINT, common.Empty(), trace_id="cd" * 16)
    await answering.stop()


async def test_an_answer_of_another_type_is_a_fault(served: testing.BusHouse) -> None:
    """A handler's reply is its command's, or it doesn't leave."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")

    async def wrong(_: answer.Incoming) -> msgspec.Struct:
        return common.Empty()

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: wrong})
    with pytest.raises(faults.Fault):
        await gate.call(canon.CHECKPOINT, common.Empty())
    await answering.stop()


async def test_nobody_there_is_unavailable_at_once(served: testing.BusHouse) -> None:
    """No responders is an answer, not a time-out."""
    gate = await served.bus("gatekeeper")
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        await gate.call(canon.APPEND, b"{}")
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.detail == {"outcome": "none"}
    assert time.monotonic() - began < 1


async def test_silence_is_unavailable_and_its_outcome_unknown(served: testing.BusHouse) -> None:
    """Who gives up says that it may have happened."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")
    hold = asyncio.Event()

    async def wait(incoming: answer.Incoming) -> canon.Checkpoint:
        await hold.wait()
        return await checkpoint(incoming)

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: wait})
    with pytest.raises(Refused) as caught:
        await gate.call(canon.CHECKPOINT, common.Empty(), timeout_s=0.1)
    assert (caught.value.code, caught.value.detail) == (Code.UNAVAILABLE, {"outcome": "unknown"})
    hold.set()
    await answering.stop()


async def test_a_full_house_says_busy_at_once_and_keeps_room_for_braking(served: testing.BusHouse) -> None:
    """With all places taken an ordinary call is BUSY, and a revocation still gets in."""
    busy = await served.bus("license", max_in_flight=2, reserved_in_flight=1)
    gateway = await served.bus("gateway")
    hold, inside = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(incoming: answer.Incoming) -> msgspec.Struct:
        inside.release()
        await hold.wait()
        raise Refused(Code.NOT_FOUND, incoming.command.name)

    assert not licence_contract.REVOKE.scored
    handlers: dict[Any, answer.Handler] = {licence_contract.LIST: wait, licence_contract.REVOKE: wait}
    answering = await busy.serve("license", handlers)

    async def ask(command: Any) -> Code:
        with pytest.raises(Refused) as caught:
            await gateway.call(command, b"{}", timeout_s=5)
        return caught.value.code

    held = [asyncio.create_task(ask(licence_contract.LIST)) for _ in range(2)]
    for _ in held:
        await inside.acquire()
    began = time.monotonic()
    assert await ask(licence_contract.LIST) is Code.BUSY
    assert time.monotonic() - began < 1
    revoking = asyncio.create_task(ask(licence_contract.REVOKE))
    await inside.acquire()
    assert await ask(licence_contract.REVOKE) is Code.BUSY
    hold.set()
    assert await asyncio.gather(*held, revoking) == [Code.NOT_FOUND] * 3
    await answering.stop()


async def test_who_needs_no_permit_cannot_take_the_whole_reserve(served: testing.BusHouse) -> None:
    """Anyone may attest, so a flood of that leaves half of the reserve to what the gate let in; `authorize` counts as what it asks for."""
    busy = await served.bus("quorum", max_in_flight=1, reserved_in_flight=2)
    gateway = await served.bus("gateway")
    hold, inside = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(incoming: answer.Incoming) -> msgspec.Struct:
        inside.release()
        await hold.wait()
        raise Refused(Code.NOT_FOUND, incoming.command.name)

    handlers: dict[Any, answer.Handler] = dict.fromkeys((quorum.PROPOSALS, quorum.ATTEST, quorum.COMMIT), wait)
    answering = await busy.serve("quorum", handlers)

    async def ask(command: Any) -> Code:
        with pytest.raises(Refused) as caught:
            await gateway.call(command, b"{}", timeout_s=5)
        return caught.value.code

    held = []
    for command in (quorum.PROPOSALS, quorum.ATTEST):
        held.append(asyncio.create_task(ask(command)))
        await inside.acquire()
    assert await ask(quorum.ATTEST) is Code.BUSY
    assert await ask(quorum.PROPOSALS) is Code.BUSY
    held.append(asyncio.create_task(ask(quorum.COMMIT)))
    await inside.acquire()
    assert await ask(quorum.COMMIT) is Code.BUSY
    hold.set()
    assert await asyncio.gather(*held) == [Code.NOT_FOUND] * 3
    await answering.stop()


async def test_the_gateway_hears_what_ends_a_session_and_no_other_event(served: testing.BusHouse) -> None:
    """Two kinds of change event; the rest of the log's stream is none of its business."""
    assert house.RESIDENTS["gateway"].hears == ("license_revoked", "session_closed")
    allowed = house.allowance(house.RESIDENTS["gateway"], "default").subscribe
    events = [subject for subject in allowed if subject.startswith(house.EVENTS)]
    assert events == [house.event_subject("default", "audit", kind) for kind in ("license_revoked", "session_closed")]


@pytest.mark.parametrize(
    ("deadline", "code"), [("1000", Code.UNAVAILABLE), ("soon", Code.BAD_INPUT), ("-5", Code.BAD_INPUT)]
)
async def test_a_request_after_its_deadline_is_refused_unread(
    served: testing.BusHouse, deadline: str, code: Code
) -> None:
    """Nothing is done for a caller who is gone."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")
    seen: list[answer.Incoming] = []

    async def remember(incoming: answer.Incoming) -> canon.Checkpoint:
        seen.append(incoming)
        return await checkpoint(incoming)

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: remember})
    reply = await gate.request(canon.CHECKPOINT.subject, b"{}", headers={wire.DEADLINE: deadline}, timeout_s=2)
    assert reply.headers[wire.ERROR] == code
    assert not seen
    await answering.stop()


async def test_requests_are_answered_side_by_side(served: testing.BusHouse) -> None:
    """One slow call holds up no other."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")
    together = asyncio.Barrier(20)

    async def meet(incoming: answer.Incoming) -> canon.Checkpoint:
        await together.wait()
        return await checkpoint(incoming)

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: meet})
    replies = await asyncio.gather(*(gate.call(canon.CHECKPOINT, b"%d" % n) for n in range(20)))
    assert [reply.note for reply in replies] == [str(n) for n in range(20)]
    await answering.stop()


async def test_two_processes_of_one_service_share_its_calls(served: testing.BusHouse) -> None:
    """Each call is answered once, by one of them."""
    gate = await served.bus("gatekeeper")
    counts = [0, 0]

    def counting(at: int) -> Callable[[answer.Incoming], Awaitable[canon.Checkpoint]]:
        async def count(incoming: answer.Incoming) -> canon.Checkpoint:
            counts[at] += 1
            return await checkpoint(incoming)

        return count

    answering = [
        await (await served.bus("canon_reader")).serve("canon_reader", {canon.CHECKPOINT: counting(at)})
        for at in range(2)
    ]
    await asyncio.gather(*(gate.call(canon.CHECKPOINT, common.Empty()) for _ in range(100)))
    assert sum(counts) == 100
    assert min(counts) > 0
    for one in answering:
        await one.stop()


async def test_stopping_ends_what_was_taken_and_takes_nothing_new(served: testing.BusHouse) -> None:
    """A call in flight is answered after `stop` began; a later one finds nobody."""
    reader, gate = await served.bus("canon_reader"), await served.bus("gatekeeper")
    hold, inside = asyncio.Event(), asyncio.Event()

    async def wait(incoming: answer.Incoming) -> canon.Checkpoint:
        inside.set()
        await hold.wait()
        return await checkpoint(incoming)

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: wait})
    early = asyncio.create_task(gate.call(canon.CHECKPOINT, b"early"))
    await inside.wait()
    stopping = asyncio.create_task(answering.stop())
    async with asyncio.timeout(5):
        while True:
            try:
                await gate.call(canon.CHECKPOINT, b"late", timeout_s=0.05)
            except Refused as refused:
                if refused.detail == {"outcome": "none"}:
                    break
    hold.set()
    assert (await early).note == "early"
    await stopping


# Identities


@pytest.mark.parametrize("name", [*house.RESIDENTS, "subscriber", "operator"])
async def test_an_arrow_that_is_not_drawn_cannot_be_sent(served: testing.BusHouse, name: str) -> None:
    """Every identity, tried on every command's subject: it may ask exactly what the house says it asks, and what its commands call."""
    resident = next(one for one in identities.EVERYONE if one.name == name)
    called = {wanted for command in catalogue.of_service(name) for wanted in command.calls}
    bus = await served.bus(name)
    for command in catalogue.COMMANDS.values():
        if command.name in resident.asks or command.name in called:
            with pytest.raises(Refused):
                await bus.call(command, b"{}", timeout_s=2, scope=("x",) * command.scopes)
        else:
            with pytest.raises(wire.Forbidden):
                await bus.call(command, b"{}", timeout_s=2, scope=("x",) * command.scopes)


@pytest.mark.parametrize("name", [*house.RESIDENTS, "operator"])
async def test_a_door_at_the_gate_for_each_service_that_calls_for_its_callers(
    served: testing.BusHouse, name: str
) -> None:
    """Who asks on somebody's behalf is who the bus says: each such service has one door, its own; nobody else has any."""
    bus = await served.bus(name)
    calls = any(command.calls for command in catalogue.of_service(name))
    for door in house.RESIDENTS:
        own = calls and door == name
        with pytest.raises(Refused if own else wire.Forbidden):
            await bus.call(gatekeeper.CHILD, b"{}", timeout_s=2, scope=(door,))


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("gatekeeper", "canon.v1.default.system.genesis"),
        ("gatekeeper", "$JS.API.STREAM.INFO.CANON_default"),
        ("gatekeeper", "canon.stream.STREAM.DELETE.CANON_default"),
        ("gatekeeper", "canon.stream.STREAM.PURGE.CANON_default"),
        ("gatekeeper", "canon.stream.CONSUMER.LIST.CANON_default"),
        ("gatekeeper", "canon.stream.CONSUMER.NAMES.CANON_default"),
        ("canon_writer", "canon.v1.default.system.genesis"),
        (house.KEEPER, "$JS.API.STREAM.DELETE.CANON_default"),
        (house.KEEPER, "canon.v1.other.system.genesis"),
        (house.KEEPER, "sigil.v1.canon_writer.canon.append"),
        ("gateway", "canon.stream.STREAM.INFO.CANON_default"),
        ("license", "_INBOX_gatekeeper.x"),
        ("subscriber", "$SRV.PING"),
    ],
)
async def test_the_stream_and_other_inboxes_are_closed(served: testing.BusHouse, name: str, subject: str) -> None:
    """Only the stream's keeper publishes events; nobody deletes the stream, lists consumers, or speaks into another's inbox."""
    bus = await served.bus(name)
    with pytest.raises(wire.Forbidden):
        await bus.request(subject, b"{}", timeout_s=2)


async def test_who_hears_badly_is_heard_of_and_the_connection_reads_on(served: testing.BusHouse) -> None:
    """A hearer that breaks is ours to log; what comes after it is heard."""
    reader, asker = await served.bus("canon_reader"), await served.bus("operator")
    heard: list[bytes] = []

    def hear(message: wire.Message) -> None:
        if message.data == b"broken":
            raise ValueError(message.data)
        heard.append(message.data)

    subject = "$SRV.PING.canon_reader"
    stop = await reader.subscribe(subject, hear)
    await reader.flush()
    with structlog.testing.capture_logs() as logged:
        for said in (b"one", b"broken", b"two"):
            await asker.publish(subject, said)
        await asker.flush()
        await reader.flush()
    await stop()
    await asker.publish(subject, b"after the end")
    await asker.flush()
    await reader.flush()
    assert heard == [b"one", b"two"]
    assert [line["subject"] for line in logged if line["event"] == "not_heard"] == [subject]


async def test_nobody_hears_another_s_calls(served: testing.BusHouse) -> None:
    """A subscription to another service's command, or to everything, brings nothing."""
    spy, gateway = await served.bus("projections"), await served.bus("gateway")
    heard: list[wire.Message] = []

    for subject in (gatekeeper.AUTHORIZE.subject, ">", "sigil.>", "_INBOX_gateway.>", "canon.v1.default.>"):
        await spy.subscribe(subject, heard.append)
    await spy.flush()
    with pytest.raises(Refused):
        await gateway.call(gatekeeper.AUTHORIZE, b"{}")
    await spy.flush()
    assert heard == []


async def test_no_answer_can_be_sent_to_a_command(served: testing.BusHouse) -> None:
    """Asking with a command's subject as the reply address would make the service call in its own name: it doesn't answer there."""
    reader, gate, writer = [await served.bus(name) for name in ("canon_reader", "gatekeeper", "canon_writer")]
    seen: list[bytes] = []

    async def remember(incoming: answer.Incoming) -> canon.Refill:
        seen.append(incoming.body)
        return canon.Refill(published=0, stream_last=0, head=0)

    answering = [
        await writer.serve("canon_writer", {canon.REFILL: remember}),
        await reader.serve("canon_reader", {canon.CHECKPOINT: checkpoint}),
    ]
    with structlog.testing.capture_logs() as logged:
        await gate.publish(canon.CHECKPOINT.subject, b"{}", reply=canon.REFILL.subject)
        await gate.call(canon.CHECKPOINT, common.Empty())
        await reader.flush()
        await writer.flush()
    assert any(line["event"] == "answer_refused" for line in logged)
    assert seen == []
    for one in answering:
        await one.stop()


async def test_health_is_told_without_the_asker_s_headers(served: testing.BusHouse) -> None:
    """PING, INFO and STATS in the manner of ADR-32; an error appears as its code, and nothing is echoed."""
    reader, gate, operator = [await served.bus(name) for name in ("canon_reader", "gatekeeper", "operator")]

    async def fail(_: answer.Incoming) -> canon.Checkpoint:
        raise RuntimeError(SECRET)

    answering = await reader.serve("canon_reader", {canon.CHECKPOINT: fail})
    with pytest.raises(faults.Fault):
        await gate.call(canon.CHECKPOINT, common.Empty())
    told = {}
    for verb in ("PING", "INFO", "STATS"):
        reply = await operator.request(f"$SRV.{verb}.canon_reader", b"", headers={"Sigil-Permit": "token"}, timeout_s=2)
        assert not reply.headers
        assert b"hunter2" not in reply.data
        told[verb] = json.loads(reply.data)
        assert told[verb]["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
        assert told[verb]["name"] == "canon_reader"
    assert told["INFO"]["endpoints"][0]["subject"] == canon.CHECKPOINT.subject
    (endpoint,) = told["STATS"]["endpoints"]
    assert (endpoint["num_requests"], endpoint["num_errors"], endpoint["last_error"]) == (1, 1, "FAULT")
    await answering.stop()


# The stream


@pytest.fixture
async def streaming(tmp_path: Path) -> AsyncIterator[tuple[testing.BusHouse, Bus]]:
    """A server of its own, and the connection of the stream's keeper."""
    async with testing.bus_house(tmp_path / "house") as running:
        writer = await running.bus(house.KEEPER)
        assert await writer.ensure_stream(testing.TENANT) == 0
        yield running, writer


async def test_batches_and_singles_stand_in_order(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """Few are published one by one, many as one atomic batch, and the sequence is seq + 1 throughout."""
    running, writer = streaming
    last = 0
    for count in (1, 39, 40, 500, 3):
        last = await writer.publish_events(events(last, last + count), last)
    assert last == await writer.stream_last(testing.TENANT) == 583
    feed = (await running.bus("gatekeeper")).read_stream(testing.TENANT, 1)
    found = await read(feed, 583)
    assert [(one.stream_seq, one.data) for one in found] == [(seq + 1, b"%d" % seq) for seq in range(583)]
    assert found[100].headers["Nats-Batch-Id"]
    await feed.close()


@pytest.mark.parametrize("count", [1, 7, 100])
async def test_a_publication_at_another_place_is_refused_whole_and_typed(
    streaming: tuple[testing.BusHouse, Bus], count: int
) -> None:
    """Neither a hole nor a double: the error says where the stream ends, and nothing was stored."""
    _, writer = streaming
    await writer.publish_events(events(0, 40), 0)
    with pytest.raises(stream.StreamAhead) as ahead:
        await writer.publish_events(events(100, 100 + count), 39)
    with pytest.raises(stream.StreamBehind) as behind:
        await writer.publish_events(events(100, 100 + count), 41)
    assert (ahead.value.last, behind.value.last) == (40, 40)
    assert await writer.stream_last(testing.TENANT) == 40


async def test_a_publication_without_a_stream_says_so(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """A deleted stream is StreamMissing, for one and for many, and can be made again at any first sequence."""
    running, writer = streaming
    await writer.publish_events(events(0, 30), 0)
    await running.delete_stream()
    for count in (1, 100):
        with pytest.raises(stream.StreamMissing):
            await writer.publish_events(events(0, count), 0)
    with pytest.raises(stream.StreamMissing):
        await writer.stream_last(testing.TENANT)
    assert await writer.ensure_stream(testing.TENANT, first_seq=31) == 30
    assert await writer.publish_events(events(30, 31), 30) == 31


async def test_ensuring_twice_changes_nothing(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """The writer ensures the stream at every start."""
    _, writer = streaming
    await writer.publish_events(events(0, 30), 0)
    assert await writer.ensure_stream(testing.TENANT) == 30
    stored = await writer.stream_message(testing.TENANT, 7)
    assert stored is not None
    assert (stored.stream_seq, stored.data) == (7, b"6")
    assert await writer.stream_message(testing.TENANT, 31) is None


async def test_a_feed_survives_the_death_of_the_server(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """After kill -9 what was acknowledged is there, and the feed goes on after what it handed out."""
    running, writer = streaming
    reader = await running.bus("gatekeeper")
    feed = reader.read_stream(testing.TENANT, 1)
    await writer.publish_events(events(0, 60), 0)
    first = await read(feed, 60)
    running.kill()
    await running.restarted(2)
    async with asyncio.timeout(10):
        while True:
            try:
                await writer.publish_events(events(60, 61), 60)
                break
            except Refused:
                await asyncio.sleep(0.02)
            except stream.StreamAhead:
                break
    then = await read(feed, 1)
    assert [one.stream_seq for one in (*first, *then)] == list(range(1, 62))
    await feed.close()


async def test_a_change_of_who_is_outside_interrupts_no_feed(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """The server takes another configuration while a pull waits: what is published then comes to the same consumer, and hints are heard."""
    running, keeper = streaming
    gateway, heard = await running.bus("gateway"), asyncio.Event()
    await gateway.subscribe(house.event_subject(testing.TENANT, "audit", "session_closed"), lambda _: heard.set())
    feed = (await running.bus("gatekeeper")).read_stream(testing.TENANT, 1)
    await keeper.publish_events(events(0, 3), 0)
    await read(feed, 3)
    await running.outside("late", (house.EVERYTHING,), "0" * 64)
    event = msgspec.structs.replace(
        events(3, 4)[0], subject=house.event_subject(testing.TENANT, "audit", "session_closed")
    )
    await keeper.publish_events([event], 3)
    assert [one.stream_seq for one in await read(feed, 1)] == [4]
    async with asyncio.timeout(5):
        await heard.wait()
    assert feed.opened == 1
    await feed.close()


async def test_one_pull_waits_at_a_time(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """However many pulls were filled: each one that waits is told of every second, and the server remembers it."""
    running, keeper = streaming
    await keeper.publish_events(events(0, 60), 0)
    feed = (await running.bus("gatekeeper")).read_stream(testing.TENANT, 1)
    for _ in range(60):
        assert len(await feed.fetch(1, 10)) == 1
    assert await feed.fetch(1, 0.05) == []
    told = await (await running.tap()).request(
        f"$JS.API.CONSUMER.INFO.{house.stream(testing.TENANT)}.{feed.consumer}", b"", timeout_s=5
    )
    assert json.loads(told.data)["num_waiting"] == 1
    await feed.close()


async def test_a_feed_survives_the_deletion_of_the_stream(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """StreamMissing while it is gone; once it is refilled, the feed goes on where it was."""
    running, writer = streaming
    feed = (await running.bus("gatekeeper")).read_stream(testing.TENANT, 1)
    await writer.publish_events(events(0, 30), 0)
    await read(feed, 30)
    await running.delete_stream()
    with pytest.raises(stream.StreamMissing):
        await feed.fetch(500, 10)
    await writer.ensure_stream(testing.TENANT)
    await writer.publish_events(events(0, 32), 0)
    assert [one.stream_seq for one in await read(feed, 2)] == [31, 32]
    await feed.close()


async def test_a_filtered_feed_brings_only_its_subjects(streaming: tuple[testing.BusHouse, Bus]) -> None:
    """One subject or several."""
    running, writer = streaming
    reader = await running.bus("gatekeeper")
    kinds = ["a", "b", "c", "a", "b"]
    mixed = [
        msgspec.structs.replace(event, subject=house.event_subject(testing.TENANT, "audit", kind))
        for event, kind in zip(events(0, 5), kinds, strict=True)
    ]
    await writer.publish_events(mixed, 0)
    for wanted, seqs in ((["a"], [1, 4]), (["a", "c"], [1, 3, 4])):
        subjects = [house.event_subject(testing.TENANT, "audit", kind) for kind in wanted]
        feed = reader.read_stream(testing.TENANT, 1, subjects=subjects)
        assert [one.stream_seq for one in await read(feed, len(seqs))] == seqs
        assert await feed.fetch(500, 0.05) == []
        await feed.close()


async def test_calls_are_refused_while_the_server_is_away_and_work_after(
    streaming: tuple[testing.BusHouse, Bus],
) -> None:
    """Not connected is UNAVAILABLE at once; nothing is sent later that its caller gave up."""
    running, _ = streaming
    reader, gate = await running.bus("canon_reader"), await running.bus("gatekeeper")
    heard: list[bytes] = []

    async def remember(incoming: answer.Incoming) -> canon.Checkpoint:
        heard.append(incoming.body)
        return await checkpoint(incoming)

    await reader.serve("canon_reader", {canon.CHECKPOINT: remember})
    running.kill()
    refused: list[Code] = []
    async with asyncio.timeout(10):
        while True:
            try:
                await gate.call(canon.CHECKPOINT, b"%d" % len(refused), timeout_s=0.5)
            except Refused as error:
                refused.append(error.code)
                await asyncio.sleep(0.01)
            else:
                break
    assert set(refused) == {Code.UNAVAILABLE}
    assert heard == [b"%d" % len(refused)]
