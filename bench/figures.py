"""A figure, and how a function's time is taken."""

import time
from collections.abc import Callable

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. `limit` is what bounds it, measured in the same run; the ratio is what to read."""

    what: str
    value: str
    limit: str = ""
    ratio: str = ""
    bound: str = ""


def seconds(run: Callable[[], object], *, at_least_s: float = 0.4, rounds: int = 5) -> float:
    """Seconds of one call: the least of several rounds, each long enough to be read off a clock."""
    run()
    started = time.perf_counter()
    run()
    once = max(time.perf_counter() - started, 1e-7)
    count = max(1, int(at_least_s / rounds / once))
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(count):
            run()
        best = min(best, (time.perf_counter() - started) / count)
    return best


def quantile(sorted_values: list[float], q: float) -> float:
    """The value below which `q` of them lie."""
    return sorted_values[min(len(sorted_values) - 1, int(q * len(sorted_values)))]


def micro(value: float) -> str:
    """Microseconds."""
    return f"{value * 1e6:.1f} µs"


def milli(value: float) -> str:
    """Milliseconds."""
    return f"{value * 1e3:.1f} ms"


def rate(value: float) -> str:
    """Per second."""
    return f"{value:,.0f}/s"
