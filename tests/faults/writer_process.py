"""The writer as a process to be killed, on a clock that stands still: `python writer_process.py <ms>`, settings from the environment."""

import asyncio
import os
import sys
from pathlib import Path

from services.canon_writer import service
from sigilcore import clock
from sigilrun import service as process
from sigilrun import settings


async def main() -> None:
    options = settings.load(
        Path(os.environ["SIGIL_CONFIG"]), os.environ, resident="canon_writer", needs=("canon", "keystore")
    )
    now = clock.FixedClock(int(sys.argv[1]))
    async with process.running("canon_writer", service.build, service.HANDLERS, options, now=now) as one:
        await one.ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
