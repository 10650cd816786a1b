"""Consumers for tests of the stream: views in memory whose content has a digest, to be compared with the ledger's."""

import asyncio
import contextlib
import hashlib

from sigilrun import consume, outside

PATIENCE_S = 20


class Kept:
    """A view; its transaction is one assignment."""

    def __init__(self, name):
        self.name = name
        self.kept = ((), consume.START)
        self._moved = asyncio.Event()

    @property
    def events(self):
        return self.kept[0]

    @property
    def next_seq(self):
        return self.kept[1].next_seq

    async def position(self):
        return self.kept[1]

    async def apply(self, events, position):
        self.kept = ((*self.kept[0], *events), position)
        self._moved.set()

    async def until(self, size, timeout_s=PATIENCE_S):
        """Return once it has seen that many records of the log."""
        async with asyncio.timeout(timeout_s):
            while self.next_seq < size:
                self._moved.clear()
                await self._moved.wait()

    @property
    def digest(self):
        """Of every record's place, header, payload and salt."""
        return digest((event.seq, event.leaf, event.payload, event.salt) for event in self.events)


def digest(rows):
    """One hash over places, headers, payloads and salts."""
    found = hashlib.sha256()
    for seq, leaf, payload, salt in rows:
        for part in (str(seq).encode(), leaf, payload or b"", (salt or "").encode()):
            found.update(len(part).to_bytes(8) + part)
    return found.hexdigest()


def digest_of(placed):
    """The same of the ledger itself."""
    return digest((one.seq, bytes(one.header), bytes(one.payload), one.salt) for one in placed)


@contextlib.asynccontextmanager
async def inside(bus, view, deployment, **options):
    """A view of the house, from the stream."""
    stop = asyncio.Event()
    reading = consume.consume(bus, view, tenant=deployment.tenant, log_key=deployment.log, stop=stop, **options)
    async with _reading(reading, stop):
        yield


@contextlib.asynccontextmanager
async def from_outside(folder, view):
    """A view outside of the house."""
    stop = asyncio.Event()
    async with _reading(outside.consume(folder, view, stop=stop), stop):
        yield


@contextlib.asynccontextmanager
async def _reading(reading, stop):
    task = asyncio.create_task(reading)
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await task
