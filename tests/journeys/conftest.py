"""One real, sealed house for the journeys; each brings people of its own."""

import pytest_asyncio

from tests import machine as machines


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def machine(tmp_path_factory):
    """Founded, four witnesses, sealed with k = 3."""
    async with machines.running(tmp_path_factory.mktemp("house") / "data") as built:
        await built.seal(4, 3)
        yield built
