"""Standing: what a caller's own decisions of late say of it."""

import hypothesis
from hypothesis import strategies as st

from sigilcore import standing, trust
from sigilcore.decision import Verdict

HOUR = standing.HOUR_MS
NOW = 500_000 * HOUR + 1_234

owners = st.sampled_from(["ada", "bob"])
verdicts = st.sampled_from(list(Verdict))
events = st.lists(st.tuples(owners, st.integers(0, 40 * HOUR), verdicts), max_size=60)


def folded(*verdicts: Verdict, age_ms: int = 0) -> standing.Standings:
    standings = standing.Standings()
    for seq, verdict in enumerate(verdicts):
        standings.fold(seq, "ada", NOW - age_ms, verdict)
    return standings


def recount(told, owner: str, now_ms: int) -> int:
    """The definition, counted anew over everything: no window, no memory."""
    balance: dict[int, int] = {}
    for who, ts_ms, verdict in told:
        step = {Verdict.ALLOW: standing.GAIN, Verdict.DENY: -standing.LOSS, Verdict.MANUAL_REVIEW: 0}[verdict]
        if who == owner:
            balance[ts_ms // HOUR] = balance.get(ts_ms // HOUR, 0) + step
    total = 0
    for hour, brought in balance.items():
        age = max(0, now_ms // HOUR - hour)
        weight = standing.DECAY[age] if age < 24 else 0
        total += weight * max(standing.WORST, min(standing.BEST, brought))
    return max(0, min(standing.CEILING, 500_000 + total // 1_000_000))


def test_who_has_no_history_stands_in_the_middle():
    """A stranger to the log, and whoever only waits for a review, starts at one half."""
    assert standing.Standings().at("ada", NOW) == 500_000
    assert folded(Verdict.MANUAL_REVIEW).at("ada", NOW) == 500_000


def test_denials_cost_and_time_forgives():
    """The example of the module: ten denials, then five hours."""
    standings = folded(*[Verdict.DENY] * 10)
    assert standings.at("ada", NOW) == 200_000
    assert standings.at("ada", NOW + 5 * HOUR) == 373_865
    assert standings.at("ada", NOW + 24 * HOUR) == 500_000


def test_clean_use_recovers_and_has_a_ceiling():
    """Thirty clean calls make good for one denial; no number of them buys more than the ceiling."""
    assert folded(Verdict.DENY, *[Verdict.ALLOW] * 30).at("ada", NOW) == 500_000
    assert folded(*[Verdict.ALLOW] * 10_000).at("ada", NOW) == standing.CEILING


def test_one_owner_moves_nobody_else():
    """What ada did is ada's."""
    assert folded(*[Verdict.DENY] * 10).at("bob", NOW) == 500_000


def test_the_table_halves_every_four_hours_in_whole_numbers():
    """Each weight is the nearest millionth to two to the minus age over four, as decided without floats."""
    for age, weight in enumerate(standing.DECAY):
        # weight / 10^6 = 2^(-age/4)  <=>  weight^4 * 2^age = 10^24, within half a millionth.
        assert (2 * weight - 1) ** 4 * 2**age <= 16 * 10**24 <= (2 * weight + 1) ** 4 * 2**age


@hypothesis.given(events, st.integers(0, 60 * HOUR))
def test_the_fold_is_the_definition(told, later_ms):
    """Whatever comes in whatever order of time, the window and its memory change no value while clocks go on."""
    told = sorted(((who, NOW + ms, verdict) for who, ms, verdict in told), key=lambda one: one[1])
    standings = standing.Standings()
    for seq, (who, ts_ms, verdict) in enumerate(told):
        standings.fold(seq, who, ts_ms, verdict)
    now_ms = max([NOW, *(ts_ms for _, ts_ms, _ in told)]) + later_ms
    assert [standings.at(who, now_ms) for who in ("ada", "bob")] == [
        recount(told, who, now_ms) for who in ("ada", "bob")
    ]


# Hours that a clock showed, to and fro: mostly few, so that each comes again.
hours = st.integers(0, 5) | st.integers(0, 60)


@hypothesis.given(st.lists(st.tuples(owners, hours, verdicts), max_size=120), st.integers(0, 120))
def test_where_somebody_stood_is_told_later(told, size):
    """What came after a position changes nothing of what was so at it, wherever clocks went."""
    then, now = standing.Standings(), standing.Standings()
    for seq, (who, hour, verdict) in enumerate(told):
        for standings in (then, now) if seq < size else (now,):
            standings.fold(seq, who, NOW + hour * HOUR, verdict)
    for who in ("ada", "bob"):
        answer = now.as_of(who, size, NOW + 5 * HOUR)
        assert answer == then.at(who, NOW + 5 * HOUR) or (answer is None and len(told) - size >= standing.TURNS)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.tuples(owners, hours, verdicts), min_size=40, max_size=120), st.integers(0, 40), st.integers(-9, 60)
)
def test_a_reader_knows_when_it_has_read_enough(told, first, later):
    """Wherever clocks went: who began late, and says that it is whole, says what a reader of everything says, then and ever after."""
    everything, late = standing.Standings(), standing.Standings()
    for seq, (who, hour, verdict) in enumerate(told):
        for standings in (everything, late) if seq >= first else (everything,):
            standings.fold(seq, who, NOW + hour * HOUR, verdict)
        if late.whole:
            for owner in ("ada", "bob"):
                assert late.at(owner, NOW + later * HOUR) == everything.at(owner, NOW + later * HOUR)


def test_who_begins_between_two_hours_needs_two_turns_more():
    """Of the first two hours that it sees it can't know whether they were new: here the second wasn't, and ada's denials still count."""
    everything, late = standing.Standings(), standing.Standings()
    told = [("ada", 0, Verdict.DENY), *(("bob", hour, Verdict.ALLOW) for hour in (1, 0, *[2, 3, 4] * 10, 2, 3))]
    for seq, (who, hour, verdict) in enumerate(told):
        for standings in (everything, late) if seq else (everything,):
            standings.fold(seq, who, NOW + hour * HOUR, verdict)
        differ = everything.at("ada", NOW) != late.at("ada", NOW)
        assert (differ, late.whole) == (seq < 33, seq == 34), seq


def test_a_position_before_the_turns_that_count_now():
    """Who asks about it hears what was so then, though the same owner acts again and nothing of that counts any more."""
    standings = folded(*[Verdict.DENY] * 10)
    for seq in range(10, 10 + standing.TURNS):
        standings.fold(seq, "bob", NOW + (seq - 9) * HOUR, Verdict.ALLOW)
    standings.fold(99, "ada", NOW + standing.TURNS * HOUR, Verdict.ALLOW)
    assert standings.as_of("ada", 11, NOW) == 200_000
    assert standings.as_of("ada", 10, NOW) is None
    assert standings.at("ada", NOW) == trust.STANDING_START + standing.GAIN


def test_two_gates_at_the_turn_of_an_hour_are_one_turn():
    """Clocks that differ by a second show the hours in turn, and forgive nothing."""
    standings = folded(*[Verdict.DENY] * 10)
    for seq in range(10, 200):
        standings.fold(seq, "bob", NOW + (seq % 2) * HOUR, Verdict.ALLOW)
    assert standings.at("ada", NOW) == 200_000
    assert not standings.whole


def test_clocks_that_jumped_for_more_than_a_day_of_turns_forgive():
    """The price of a bounded reading: what lies further back than the turns that are read counts no more, for nobody."""
    standings = folded(*[Verdict.DENY] * 10)
    for seq in range(10, 10 + standing.TURNS):
        assert standings.at("ada", NOW) == 200_000 or seq == 9 + standing.TURNS
        standings.fold(seq, "bob", NOW - seq * HOUR, Verdict.ALLOW)
    assert standings.at("ada", NOW) == 500_000


def test_a_position_too_long_ago_can_not_be_told():
    """Only so many of a caller's positions are remembered; beyond them the answer is none, never a guess."""
    standings = standing.Standings()
    for seq in range(standing.RECENT + 1):
        standings.fold(seq, "ada", NOW, Verdict.ALLOW)
    assert standings.as_of("ada", 1, NOW) is None
    assert standings.as_of("ada", 2, NOW) == trust.STANDING_START + 2 * standing.GAIN


def test_a_clock_that_went_back_forgives_nothing():
    """Denials that lie ahead of now weigh whole."""
    assert folded(*[Verdict.DENY] * 10).at("ada", NOW - 100 * HOUR) == 200_000
