"""Run all measurements, one after the other, and write docs/benchmarks.md."""

import datetime as dt
import os
import platform
import sys
from pathlib import Path

import uvloop

from bench import core, decisions, flood, house, ledger, replay
from bench.figures import Figure

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MILLION = PAGE.with_name("benchmarks-million.md")
LEDGER = "The one writer, its limits and its peers"


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
    """`python -m bench [--fast] [--print] [--only-ledger]`, or `--million`, which takes minutes and has a page of its own."""
    fast = "--fast" in sys.argv
    if "--million" in sys.argv:
        sections = [("One log, filled in calls of 500", uvloop.run(ledger.million()))]
        show("A million records", sections, MILLION, "python -m bench --million")
        return
    if "--only-ledger" in sys.argv:
        print(table(LEDGER, uvloop.run(ledger.run(fast))))
        return
    sections = [
        ("Thinking: one core, no I/O", core.run()),
        ("One decision, beside other engines", decisions.run()),
        ("Judging a ledger again", replay.run(5_000 if fast else replay.RECORDS)),
        (LEDGER, uvloop.run(ledger.run(fast))),
        ("The house, end to end", uvloop.run(house.run(fast))),
        ("Braking under a flood", uvloop.run(flood.run(fast))),
    ]
    show("Benchmarks", sections, PAGE)


def show(title: str, sections: list[tuple[str, list[Figure]]], path: Path, command: str = "make bench") -> None:
    """Print the page, and write it unless asked not to."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {platform.system()}"
    page = (
        f"# {title}\n\nMeasured {today} on {machine}, by `{command}`. Ratios are what to read: every limit was measured in the same"
        " run, on the same two cores that carry the whole house and the load generator.\n\n"
        + "\n".join(table(heading, figures) for heading, figures in sections)
    )
    print(page)
    if "--print" not in sys.argv:
        path.write_text(page)


if __name__ == "__main__":
    main()
