"""Knowledge's process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.knowledge.orders import Orders
from services.knowledge.service import HANDLERS, Knowledge
from services.knowledge.store import Store
from sigilcore.contracts import knowledge as contract
from sigilrun import behalf, live, service


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Knowledge]:
    """The store beside the pen, fed while the block runs; orders to erase are carried out as they come."""
    opens = parts.following.opened
    store = Store(parts.state_dir / "knowledge.db")
    view = live.LiveView(contract.SERVICE, store, live.head_of(parts.bus, opens))
    try:
        async with live.feeding(parts.bus, view, tenant=parts.deployment.tenant, opens=opens):
            knowledge = Knowledge(
                store, view, parts.authoring, behalf.Behalf(parts.bus, parts.resident, parts.answering)
            )
            orders = Orders(store, view, parts.authoring, knowledge.heads, parts.clock)
            carrying_out = asyncio.create_task(orders.run(), name="orders")
            try:
                yield knowledge
            finally:
                carrying_out.cancel()
                await asyncio.gather(carrying_out, return_exceptions=True)
    finally:
        store.close()


if __name__ == "__main__":
    service.run(contract.SERVICE, build, HANDLERS)
