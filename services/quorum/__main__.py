"""The quorum service's process."""

import contextlib
from collections.abc import AsyncIterator

from services.quorum.ledger import BusLedger
from services.quorum.service import HANDLERS, Quorum
from sigilcore.contracts import quorum as wire
from sigilrun import service


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Quorum]:
    """The quorum service from its parts; leaving the block ends the sweep."""
    quorum = Quorum(ledger=BusLedger(parts), clock=parts.clock)
    await quorum.start()
    try:
        yield quorum
    finally:
        await quorum.stop()


if __name__ == "__main__":
    service.run(wire.SERVICE, build, HANDLERS)
