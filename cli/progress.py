"""A bar for what takes long: shown to a person at a terminal, silent otherwise. It goes to stderr, beside the result."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many records of `total` are done and how many a second; what is given is called with the number done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import console, progress  # noqa: PLC0415 - only for who sees it

    columns = (
        progress.TextColumn("{task.completed:,.0f} records " + what),
        progress.BarColumn(),
        progress.TextColumn("{task.percentage:>3.0f} %" if total else ""),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total, rate="")

        def done(count: int) -> None:
            speed = shown.tasks[0].speed
            shown.update(task, completed=count, rate="" if speed is None else f"{speed:,.0f}/s")

        yield done
