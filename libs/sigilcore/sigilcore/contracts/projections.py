"""Projections: the records-and-links view."""

from typing import Annotated, Any

import msgspec

from sigilcore.access import Loa
from sigilcore.contracts.command import Action, Command, Target
from sigilcore.contracts.common import Cursor, Empty, Limit, Message, WaitFor
from sigilcore.refusals import Code

SERVICE = "projections"


class ProjectionStatus(Message, frozen=True, kw_only=True):
    """How far the view is, how far the log is, and a digest of the view's content at its position."""

    position: int
    head: int
    lag: int
    records: int
    links: int
    digest: str


class Links(Message, frozen=True, kw_only=True):
    """Records that link to a target (a record's hash or id, or a decision)."""

    target: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    cursor: Cursor | None = None
    limit: Limit = 50
    wait_for: WaitFor | None = None


class LinkView(Message, frozen=True, kw_only=True):
    """One arrow."""

    seq: int
    id: str
    kind: str
    label: str
    target: str


class LinkPage(Message, frozen=True, kw_only=True):
    """A page of arrows."""

    items: tuple[LinkView, ...]
    cursor: str | None


class Statistics(Message, frozen=True, kw_only=True):
    """Counts of records by space and kind."""

    position: int
    counts: dict[str, Any]


STATUS = Command(
    name="projection/status",
    service=SERVICE,
    request=Empty,
    reply=ProjectionStatus,
    summary="How far the records view is, and its digest.",
    action=Action.READ,
    target=Target.CONFIG,
    rung=Loa.OBSERVER,
)
LINKS = Command(
    name="links/list",
    service=SERVICE,
    request=Links,
    reply=LinkPage,
    summary="Which records link to a target.",
    action=Action.READ,
    target=Target.AUDIT,
    rung=Loa.MENTOR,
    refusals=(Code.BEYOND_HEAD, Code.NOT_YET),
)
STATISTICS = Command(
    name="statistics/records",
    service=SERVICE,
    request=Empty,
    reply=Statistics,
    summary="Counts of records by space and kind.",
    action=Action.READ,
    target=Target.CONFIG,
    rung=Loa.OBSERVER,
)

COMMANDS = (STATUS, LINKS, STATISTICS)
