"""Authors checked without the tree, for who sees some kinds of the log and all that governs it.

Invariants:

- nobody's word is taken for who may sign: the fold of what governs is built here, from the pinned genesis on, by the same admission as
  the writer's (`follow`);
- a record is judged only once the fold has seen everything that governs before it, so a key that ended there is known to have ended;
- a governing record is judged by the fold itself: the record at its place must be the very one that the fold admitted.
"""

from collections.abc import Sequence

from sigilcore import authorship, faults, merkle, record, records
from sigilcore.refusals import Refused
from sigilrun.bus import Bus
from sigilrun.consume import Event, Pager
from sigilrun.follow import Follower
from sigilrun.settings import DeploymentFile

# From the first governing record to the head at once: many thousand signatures a second, and it goes on where it was.
REACH_S = 30.0


class Authors:
    """The fold, moved on demand; `consume.Authorship`."""

    def __init__(self, bus: Bus, deployment: DeploymentFile, *, genesis: str, pager: Pager | None = None) -> None:
        """`pager` reads what governs; none asks `canon/events`. Nothing is read yet."""
        self._fold = Follower(bus, deployment, pinned=genesis)
        if pager is not None:
            self._fold.page_with(pager)
        self._fold.on_change(self._admitted)
        self._governing: dict[int, bytes] = {}  # leaf hashes: a record's own hash leaves its signatures out

    def _admitted(self, seq: int, checked: record.Checked) -> None:
        self._governing[seq] = merkle.leaf_hash(checked.leaf)

    async def check(self, events: Sequence[Event]) -> None:
        """Each of these was signed by who could write it there.

        Raises:
            Corrupt: one wasn't.
            Refused: the fold can't be read that far now.
            WrongCanon: this isn't the canon that was pinned.

        """
        await self._fold.wait_for(events[-1].seq + 1, REACH_S)
        for event in events:
            self._check(event)

    def _check(self, event: Event) -> None:
        kind = records.REGISTRY.get(event.kind)
        if kind is not None and kind.governs:
            if self._governing.get(event.seq) != merkle.leaf_hash(event.leaf):
                raise faults.Corrupt(f"the {event.kind} at {event.seq} is not the one that governs")
            return
        try:
            header, core_bytes = record.open_header(event.leaf)
            subject = None
            if kind is not None and event.payload is not None and event.salt is not None:
                checked = record.check(event.signed())
                subject = kind.subject(checked.payload)
            authorship.check(self._fold.state, event.seq, header, core_bytes, subject)
        except Refused as refused:
            raise faults.Corrupt(f"the author of {event.seq}: {refused.code}: {refused.message}") from refused
