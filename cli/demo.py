"""`make demo`: the whole story on a stack of its own in a temporary folder, one line a step; the first thing that doesn't hold ends it.

The stack runs as a process of its own, as a person would start it; it is stopped before the offline steps, so that nothing could be asked.
At the end a second one runs on a copy of its folder, in whose database a byte is changed.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cli import seam, story
from sigilrun import house

START_S: Final = 60.0
STOP_S: Final = 30.0
# A summary of refusals every two seconds instead of sixty: nobody wants to wait for it in a demonstration.
OVERRIDES: Final = {"SIGIL_GATE_SUMMARY_INTERVAL_S": "2"}


def main() -> None:
    """Play it; exit 1 at the first thing that doesn't hold."""
    words = argparse.ArgumentParser(description="Play the whole story on a stack of its own.")
    words.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    words.add_argument("--keep", type=Path, help="play in this new folder and keep it")
    given = words.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
        return
    with contextlib.ExitStack() as stack:
        place = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sigil-demo-")))
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        sys.exit(seam.wait(play(place)))


async def play(place: Path) -> int:
    """All steps; the exit code."""
    began = time.monotonic()
    work = place / "people"
    work.mkdir(mode=0o700)
    number = 0

    def told(text: str) -> None:
        nonlocal number
        number += 1
        print(f"{number:>2}. [{time.monotonic() - began:6.1f} s] {text}", flush=True)

    try:
        async with contextlib.AsyncExitStack() as stack:
            address = await stack.enter_async_context(running(place / "data"))
            told(f"the house answers at {address}")
            tale = await stack.enter_async_context(story.Story(address, place / "data", work))
            for step in story.ONLINE:
                told(await step(tale))
        told("the house was stopped; what follows asks nobody")
        for offline in story.OFFLINE:
            told(offline(tale))
        copy = place / "copy"
        copying = await asyncio.create_subprocess_exec("cp", "-a", place / "data", copy)
        story.hold(await copying.wait() == 0, "the data folder can be copied")
        async with running(copy) as address:
            told(await tale.tamper_with_a_database(address, copy))
    except Exception as error:
        print(f"    DOES NOT HOLD: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if not isinstance(error, story.Broken):
            raise
        return 1
    print("everything held", flush=True)
    return 0


@contextlib.asynccontextmanager
async def running(data: Path) -> AsyncIterator[str]:
    """A stack on this folder; its address. Stopped, and seen to have stopped, at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "cli.demo",
        "--serve",
        str(data),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            line = (await process.stdout.readline()).decode().strip()
        if not line.startswith("ready "):
            raise story.Broken("the stack didn't start; see above")
        yield line.removeprefix("ready ")
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            await process.wait()


async def serve(data: Path) -> None:
    """The stack's own process."""

    def ready(what: house.Ready) -> None:
        print(f"ready {what.address}", flush=True)

    await house.run(data, port=None, tell=ready, overrides=OVERRIDES)


if __name__ == "__main__":
    main()
