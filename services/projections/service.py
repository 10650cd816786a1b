"""Projections as a service: thin handlers over the served view, then the table."""

from typing import Any

from services.projections import rules
from services.projections.shelf import Shelf
from sigilcore.contracts import projections as contract
from sigilcore.contracts.common import Empty
from sigilcore.permit import Call
from sigilrun.live import LiveView


class Projections:
    """What the handlers share."""

    def __init__(self, shelf: Shelf, view: LiveView) -> None:
        """`view` feeds what is on the shelf."""
        self.shelf = shelf
        self.view = view


async def status(service: Projections, request: Empty, call: object) -> contract.ProjectionStatus:
    """How far the view is, how far the log, and what stands in it."""
    del request, call
    head = await service.view.head()
    store = service.shelf.store
    content, position = store.content(), store.at.next_seq
    # The log may have grown, and the view with it, after the head was read.
    head = max(head, position)
    return contract.ProjectionStatus(
        position=position,
        head=head,
        lag=head - position,
        records=content.records,
        links=content.links,
        digest=content.digest.hex(),
    )


async def links(service: Projections, request: contract.Links, call: Call) -> contract.LinkPage:
    """Which records link to a target, of those that the caller may see."""
    after = rules.place_of(request.cursor)
    await service.view.reach(request.wait_for)
    reader = rules.reader_of(call.bound.permit)
    found = service.shelf.store.links_to(request.target, after, request.limit + 1, reader=reader)
    shown = found[: request.limit]
    more = len(found) > request.limit
    return contract.LinkPage(
        items=tuple(view for _, view in shown), cursor=rules.cursor_of(shown[-1][0]) if more else None
    )


async def statistics(service: Projections, request: Empty, call: object) -> contract.Statistics:
    """Records by space and kind."""
    del request, call
    store = service.shelf.store
    return contract.Statistics(position=store.at.next_seq, counts=dict(store.tally()))


HANDLERS: dict[Any, Any] = {
    contract.STATUS: status,
    contract.LINKS: links,
    contract.STATISTICS: statistics,
}
