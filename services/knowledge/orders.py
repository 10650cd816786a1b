"""The quorum's orders to erase, carried out: what a person's own call does to their own thing, an order does to anybody's.

Invariants:

- an order is a record that Root and k witnesses signed; the view shows it until an erasure names it, so after a crash it is found again;
- the erasure names the order where an owner's would name its decision, and the writer holds it to the order: this thing, once, in time.
  Nothing here is believed;
- an order of a thing that isn't there waits for it, until the order ends.
"""

import asyncio

from services.knowledge import rules
from services.knowledge.heads import Heads
from services.knowledge.service import Pen
from services.knowledge.store import Store
from services.knowledge.things import Thing
from sigilcore import clock, decision, faults
from sigilcore.refusals import Code, Refused, raised
from sigilrun import telemetry
from sigilrun.author import UserDraft
from sigilrun.live import LiveView

RETRY_FIRST_S = 0.25
RETRY_MOST_S = 30.0


class Orders:
    """Carries out what the view shows. `run` it beside the handlers."""

    def __init__(self, store: Store, view: LiveView, pen: Pen, heads: Heads, now: clock.Clock) -> None:
        """Shares `heads` with the handlers, so that an owner's write and an order take turns."""
        self._store = store
        self._view = view
        self._pen = pen
        self._heads = heads
        self._clock = now

    async def run(self) -> None:
        """Until cancelled: look whenever the view has moved, and again after what failed."""
        delay_s = RETRY_FIRST_S
        while True:
            seen = self._store.at.next_seq
            if await self._carry_out_all():
                delay_s = RETRY_FIRST_S
                await self._view.hold(seen + 1)
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def _carry_out_all(self) -> bool:
        """True if nothing failed."""
        whole = True
        for name, thing in self._store.orders(self._clock.now_ms()):
            if not self._store.versions(thing):
                continue
            try:
                await self._carry_out(name, thing)
            except (Refused, faults.Fault) as error:
                whole = False
                telemetry.log.warning("order_waits", order=name, reason=str(error))
            except Exception:
                whole = False
                telemetry.log.exception("order_failed", order=name)
        return whole

    async def _carry_out(self, name: str, thing: Thing) -> None:
        """One erasure of all that there is, listed while nobody writes the thing here; whoever comes between makes the list stale."""
        async with self._heads.turn([thing]):
            await self._heads.settle_anew()
            versions = self._store.versions(thing)
            if not versions or name not in dict(self._store.orders(self._clock.now_ms())):
                return
            effect = rules.ordered_erasure(thing, versions)
            draft = UserDraft(kind=effect.tag, payload=effect.payload, id=effect.id, prev=self._heads.of(thing))
            receipt = await self._pen.user([draft], decision.DecisionRef(record=name, index=0))
            (result,) = receipt.results
            if result.refusal is not None and result.refusal.code is not Code.DECISION_USED:
                raise raised(result.refusal)
            if result.seq is not None and result.hash is not None:
                self._heads.wrote(thing, result.id, result.seq, result.hash)
        # What was just written is in the view soon; until then the order still stands there.
        await self._view.reach_head()
        telemetry.log.info("order_carried_out", order=name, versions=len(versions))
