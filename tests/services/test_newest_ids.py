"""What the writer knows of ids without asking: never that one doesn't stand which does."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from services.canon_writer.newest_ids import NewestIds

MOST = 8
names = st.integers(0, 60).map(lambda number: str(uuid.UUID(int=number << 80)))


@given(begun=st.sets(names), added=st.lists(st.lists(names, max_size=6)), asked=st.sets(names))
def test_whatever_stands_is_known_to_stand_or_left_to_the_store(begun, added, asked):
    """By a plain set of all ids; and no more is held than was said."""
    newest = NewestIds(MOST)
    newest.begin(sorted(begun, reverse=True)[:MOST])
    stand = set(begun)
    for ids in added:
        newest.add(ids)
        stand.update(ids)
    assert stand & asked <= newest.unsure(asked)
    assert newest.unsure(stand) == stand
    assert len(newest._held) <= 2 * MOST


@given(begun=st.sets(names), added=st.lists(names))
def test_an_id_after_all_that_stand_is_asked_of_nobody(begun, added):
    """However much was written before, and forgotten since."""
    newest = NewestIds(MOST)
    newest.begin(sorted(begun, reverse=True)[:MOST])
    for name in added:
        newest.add([name])
    after = str(uuid.UUID(int=61 << 80))
    assert newest.unsure([after]) == set()
    newest.add([after])
    assert newest.unsure([after]) == {after}


def test_in_a_small_log_every_new_id_is_known_to_be_new():
    """All that stand are held then, so there is no floor."""
    newest = NewestIds(MOST)
    newest.begin([str(uuid.UUID(int=5))])
    assert newest.unsure([str(uuid.UUID(int=4)), str(uuid.UUID(int=6))]) == set()
