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


@hypothesis.given(events, st.integers(0, 60))
def test_where_somebody_stood_is_told_later(told, size):
    """What came after a position changes nothing of what was so at it."""
    told = [(who, NOW + ms, verdict) for who, ms, verdict in told]
    then, now = standing.Standings(), standing.Standings()
    for seq, (who, ts_ms, verdict) in enumerate(told):
        now.fold(seq, who, ts_ms, verdict)
        if seq < size:
            then.fold(seq, who, ts_ms, verdict)
    hours = {ts_ms // HOUR for _, ts_ms, _ in told}
    hypothesis.assume(len(hours) <= standing.HOURS)
    for who in ("ada", "bob"):
        assert now.as_of(who, size, NOW + 40 * HOUR) == then.at(who, NOW + 40 * HOUR)


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
