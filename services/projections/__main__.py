"""Projections' process; `python -m services.projections rebuild` builds the view again beside the running one."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvloop

from services.projections.rebuild import Rebuilt, rebuild
from services.projections.service import HANDLERS, Projections
from services.projections.shelf import Shelf
from sigilcore.contracts import projections as contract
from sigilrun import consume, live, service, settings, telemetry
from sigilrun.bus import Bus
from sigilrun.follow import Follower

FOLDER = "records"


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Projections]:
    """The served view, fed while the block runs."""
    opens = parts.following.opened
    shelf = Shelf(parts.state_dir / FOLDER)
    view = live.LiveView(contract.SERVICE, shelf, live.head_of(parts.bus, opens))
    try:
        async with live.feeding(parts.bus, view, tenant=parts.deployment.tenant, opens=opens):
            yield Projections(shelf, view)
    finally:
        shelf.close()


async def rebuilt(options: settings.Settings) -> Rebuilt:
    """Build the view anew over the bus, compare it with the running one, and let it take its place."""
    bus = await Bus.connect(options.bus, contract.SERVICE)
    # Not started: it reads what governs when a checkpoint asks for it, which is when the log's key was rotated.
    opens = Follower(bus, options.deployed).opened
    try:

        async def feed(view: consume.View, enough: asyncio.Event) -> None:
            await consume.consume(bus, view, tenant=options.deployed.tenant, log_key=opens, stop=enough)

        size = await live.head_of(bus, opens)()
        return await rebuild(options.service.state_dir / FOLDER, feed, size)
    finally:
        await bus.close()


def rebuild_main() -> int:
    """The command: 0 if both were equal, 1 if the running one differed (it is replaced), 2 on bad settings."""
    try:
        path = Path(os.environ.get("SIGIL_CONFIG", "config.toml"))
        options = settings.load(path, os.environ, resident=contract.SERVICE)
    except settings.SettingsError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201 - there is no log before its settings
        return 2
    telemetry.configure(level=options.telemetry.level, as_json=options.telemetry.json, resident=contract.SERVICE)
    result = uvloop.run(rebuilt(options))
    telemetry.log.info("view_rebuilt", **msgspec.to_builtins(result, enc_hook=str))
    return 0 if result.differs_at is None else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["rebuild"]:
        sys.exit(rebuild_main())
    service.run(contract.SERVICE, build, HANDLERS)
