"""Reading the log from outside of the house: an account, and the one call that feeds a view with it.

Example::

    await outside.consume(Path("news"), view, stop=stop)

A consumer of the whole log checks the tree against the log's signed checkpoints; a consumer of some kinds checks each record's author
against the fold of what governs, from the genesis that its account pins. Either way nothing is believed because of who sent it.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sigilcore.contracts import canon, house
from sigilrun import consume as consuming
from sigilrun import settings
from sigilrun.authors import Authors
from sigilrun.bus import Bus
from sigilrun.settings import DeploymentFile

SEED = "seed"
ACCOUNT = "account.json"


class AccountEnded(Exception):  # noqa: N818 - what happened
    """The house doesn't know this account any more."""


class Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a consumer was given. `scopes` are spaces and kinds; `genesis` and `deployment` are what it pins."""

    name: str
    url: str
    scopes: tuple[tuple[str, str], ...]
    genesis: str
    deployment: DeploymentFile

    @property
    def whole(self) -> bool:
        """True if it may read all of the log."""
        return house.EVERYTHING in self.scopes

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that it reads; none means all."""
        return () if self.whole else tuple(kind for _, kind in self._read)

    @property
    def hears(self) -> tuple[str, ...]:
        """The subjects that tell of something new."""
        return tuple(subject for scope in self._read for subject in house.heard_by(scope, self.deployment.tenant))

    @property
    def _read(self) -> tuple[tuple[str, str], ...]:
        return tuple(scope for scope in self.scopes if scope != house.GOVERNING)


def account(folder: Path) -> Account:
    """The account in a folder."""
    return msgspec.json.decode((folder / ACCOUNT).read_bytes(), type=Account)


async def connect(folder: Path) -> Bus:
    """A connection as this consumer, sought for ever."""
    who = account(folder)
    return await Bus.connect(settings.Bus(url=who.url, nkey_seed_file=folder / SEED), who.name)


async def consume(folder: Path, view: consuming.View, *, stop: asyncio.Event, batch: int = 500) -> None:
    """Feed the view with all that the account may read, until `stop`; see `sigilrun.consume`.

    Raises:
        AccountEnded: it was revoked; the view is whole as far as it came.

    """
    who, bus = account(folder), await connect(folder)
    scopes = tuple(scope for scope in who.scopes if scope != house.GOVERNING)
    authors = None
    if not who.whole:
        authors = Authors(bus, who.deployment, genesis=who.genesis, pager=pager(bus, (house.GOVERNING,)))
    ending = asyncio.Event()
    reading = consuming.consume(
        bus,
        view,
        tenant=who.deployment.tenant,
        log_key=who.deployment.log,
        stop=ending,
        batch=batch,
        check="tree" if who.whole else "signatures",
        authors=authors,
        kinds=who.kinds,
        pager=pager(bus, scopes),
        hears=who.hears,
    )
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, bus.unknown)]
    task = asyncio.ensure_future(reading)
    try:
        await asyncio.wait((*waits, task), return_when=asyncio.FIRST_COMPLETED)
        ending.set()
        await task
        if bus.unknown.is_set() and not stop.is_set():
            raise AccountEnded(f"the house at {who.url} doesn't know {who.name} any more")
    finally:
        for one in (*waits, task):
            one.cancel()
        await asyncio.gather(*waits, task, return_exceptions=True)
        await bus.close()


def pager(bus: Bus, scopes: Sequence[tuple[str, str]]) -> consuming.Pager:
    """Pages of some scopes, as one: what stands before `next` is whole."""

    async def page(asked: canon.Events) -> canon.EventPage:
        one = canon.EventsOf(first=asked.first, limit=asked.limit)
        pages = await asyncio.gather(*(bus.call(canon.EVENTS_OF, one, scope=scope) for scope in scopes))
        return pages[0] if len(pages) == 1 else merged(pages)

    return page


def merged(pages: Sequence[canon.EventPage]) -> canon.EventPage:
    """Pages that begin at the same seq, as one that goes as far as all of them do."""
    following = min(page.next for page in pages)
    items = sorted((item for page in pages for item in page.items if item.seq < following), key=lambda item: item.seq)
    return canon.EventPage(items=tuple(items), head=min(page.head for page in pages), next=following)
