"""The grid's process."""

import contextlib
from collections.abc import AsyncIterator

from services.grid.caller import Caller
from services.grid.ledger import BusLedger
from services.grid.service import HANDLERS, Grid
from services.grid.store import Held
from sigilcore.contracts import grid as contract
from sigilrun import service


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Grid]:
    """The grid from its parts; connections to peers are closed at the end."""
    held = Held(parts.state_dir / "grid.db")
    caller = Caller(parts.own_signer)
    try:
        yield Grid(ledger=BusLedger(parts), clock=parts.clock, node=parts.own_signer, held=held, caller=caller)
    finally:
        await caller.close()
        held.close()


if __name__ == "__main__":
    service.run(contract.SERVICE, build, HANDLERS)
