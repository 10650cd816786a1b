"""A reader's process: `python -m services.canon_writer.reader`. Any number of them; they read what the one writer wrote."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from services.canon_writer import reading, store
from services.canon_writer.laws import StoreError
from sigilcore import note
from sigilcore.contracts import canon, common, house
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun import postgres, service, telemetry

RETRY_S = 0.5

Rep = TypeVar("Rep")


class Reader:
    """What the handlers read from."""

    def __init__(self, shelf: store.PostgresShelf, state: Callable[[], Governance], log_key: note.VerifierKey) -> None:
        self.shelf = shelf
        self.reading = reading.Reading(shelf, state, log_key)

    async def page(self, request: canon.Events) -> canon.EventPage:
        """Events for the reader's own fold, without the bus."""
        return await _answered(self.reading.events(request))


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Reader]:
    """A reader with its pool; its fold follows from Postgres itself."""
    options = parts.settings.canon
    assert options is not None
    assert parts.keystore is not None
    follower = parts.following
    while True:
        try:
            pool = await postgres.pool(options, application="canon_reader")
            break
        except postgres.Unavailable as error:
            telemetry.log.warning("store_down", reason=str(error))
            await asyncio.sleep(RETRY_S)
    shelf = store.PostgresShelf(pool, parts.deployment.tenant, parts.keystore.aead_key(house.PAYLOAD_KEY))
    reader = Reader(shelf, lambda: follower.state, note.VerifierKey.parse(parts.deployment.log))
    follower.page_with(reader.page)
    try:
        yield reader
    finally:
        await shelf.close()


async def _answered(reading_it: Awaitable[Rep]) -> Rep:
    """The answer, or that the database can't be reached."""
    try:
        return await reading_it
    except StoreError as error:
        telemetry.log.warning("store_down", reason=str(error))
        raise Refused(Code.UNAVAILABLE, "the canon's database can't be reached", detail={"outcome": "none"}) from error


def _viewer(call: service.Call) -> reading.Viewer:
    permit = call.bound.permit
    return reading.Viewer(owner=permit.owner_id, loa=permit.loa)


async def get(self: Reader, request: canon.Get, call: service.Call) -> canon.RecordView:
    """`canon/get`."""
    return await _answered(self.reading.get(_viewer(call), request))


async def records(self: Reader, request: canon.ListRecords, call: service.Call) -> canon.RecordPage:
    """`canon/list`."""
    return await _answered(self.reading.records(_viewer(call), request))


async def history(self: Reader, request: canon.History, call: service.Call) -> canon.RecordPage:
    """`canon/history`."""
    return await _answered(self.reading.history(_viewer(call), request))


async def diff(self: Reader, request: canon.Diff, call: service.Call) -> canon.Difference:
    """`canon/diff`."""
    return await _answered(self.reading.diff(_viewer(call), request))


async def audit_get(self: Reader, request: canon.AuditGet, call: service.Call) -> canon.RecordView:
    """`audit/get`."""
    return await _answered(self.reading.audit_get(_viewer(call), request))


async def audits(self: Reader, request: canon.ListRecords, call: service.Call) -> canon.RecordPage:
    """`audit/list`."""
    return await _answered(self.reading.audits(_viewer(call), request))


async def proof(self: Reader, request: canon.Prove, call: service.Call) -> canon.Bundle:
    """`canon/proof`."""
    return await _answered(self.reading.proof(_viewer(call), request))


async def consistency(self: Reader, request: canon.Consistency, _: service.Call) -> canon.ConsistencyProof:
    """`canon/consistency`."""
    return await _answered(self.reading.consistency(request))


async def grown(self: Reader, request: canon.Consistency, _: service.Call) -> canon.Grown:
    """`log/consistency`."""
    return await _answered(self.reading.grown(request))


async def checkpoint(self: Reader, _: common.Empty, __: service.Call) -> canon.Checkpoint:
    """`log/checkpoint`."""
    return await _answered(self.reading.checkpoint())


async def tile(self: Reader, request: canon.LogPart, _: service.Call) -> canon.LogBytes:
    """`log/tile`."""
    return await _answered(self.reading.tile(request))


async def entries(self: Reader, request: canon.LogPart, _: service.Call) -> canon.LogBytes:
    """`log/entries`."""
    return await _answered(self.reading.entries(request))


async def events(self: Reader, request: canon.Events, _: service.Call) -> canon.EventPage:
    """`canon/events`."""
    return await _answered(self.reading.events(request))


async def events_of(self: Reader, request: canon.EventsOf, call: service.Call) -> canon.EventPage:
    """`canon/events_of`: the bus has let the caller ask of this scope, and the scope says which kinds."""
    kinds = house.kinds_of(call.scope)
    if kinds is None:
        raise Refused(Code.BAD_INPUT, "no such space and kind")
    return await self.page(canon.Events(first=request.first, limit=request.limit, kinds=kinds))


HANDLERS: service.Handlers[Any] = {
    canon.GET: get,
    canon.LIST: records,
    canon.HISTORY: history,
    canon.DIFF: diff,
    canon.AUDIT_GET: audit_get,
    canon.AUDIT_LIST: audits,
    canon.PROOF: proof,
    canon.CONSISTENCY: consistency,
    canon.GROWN: grown,
    canon.CHECKPOINT: checkpoint,
    canon.TILE: tile,
    canon.ENTRIES: entries,
    canon.EVENTS: events,
    canon.EVENTS_OF: events_of,
}

if __name__ == "__main__":
    service.run("canon_reader", build, HANDLERS)
