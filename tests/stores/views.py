"""Real ledgers as the events that views are fed with."""

from sigilcore import merkle
from sigilcore.access import Loa
from sigilrun import consume
from tests.simulator import House, Person


def house_with_memories(count):
    """A house in which two people have remembered things, some of them again and again."""
    house = House()
    people = [house.issue(Person(name), Loa.OPERATOR) for name in ("ada", "bob")]
    for number in range(count):
        house.remember(people[number % 2], f"note-{number % 5}", f"text {number}")
    return house


def events_of(house):
    """Every record as an event."""
    return [consume.open_event(placed) for placed in house.placed()]


def position_at(events, size):
    """The position after so many of these events."""
    tree = merkle.EMPTY.extend([merkle.leaf_hash(event.leaf) for event in events[:size]])
    return consume.Position(next_seq=size, frontier=tree.to_bytes())


def feed(store, events, *, start=0, end=None, step=7):
    """These events in batches of `step`."""
    end = len(events) if end is None else end
    for first in range(start, end, step):
        last = min(first + step, end)
        store.apply(events[first:last], position_at(events, last))
