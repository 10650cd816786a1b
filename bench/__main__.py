"""Run all measurements, one after the other, and write docs/benchmarks.md."""

import asyncio
import datetime as dt
import os
import platform
import sys
from pathlib import Path

from bench import core, decisions, house, replay
from bench.figures import Figure

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def table(title: str, figures: list[Figure]) -> str:
    """Figures as a Markdown table."""
    lines = [
        f"## {title}",
        "",
        "| what | measured | limit or aim, same run | ratio | bounded by |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {one.what} | {one.value} | {one.limit} | {one.ratio} | {one.bound} |" for one in figures]
    return "\n".join(lines) + "\n"


def main() -> None:
    """`python -m bench [--fast] [--print]`."""
    fast = "--fast" in sys.argv
    sections = [
        ("Thinking: one core, no I/O", core.run()),
        ("One decision, beside other engines", decisions.run()),
        ("Judging a ledger again", replay.run(5_000 if fast else replay.RECORDS)),
        ("The house, end to end", asyncio.run(house.run(fast))),
    ]
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {platform.system()}"
    page = (
        f"# Benchmarks\n\nMeasured {today} on {machine}, by `make bench`. Ratios are what to read: every limit was measured in the same"
        " run, on the same two cores that carry the whole house and the load generator.\n\n"
        + "\n".join(table(title, figures) for title, figures in sections)
    )
    print(page)
    if "--print" not in sys.argv:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
