"""One real, sealed house that only bad requests come to; its rate limits are far away, since they would answer first."""

import pytest_asyncio

from tests import machine as machines

FAR = "1000000"
ENV = {
    "SIGIL_GATEWAY_RATE_LIMIT_PER_MINUTE": FAR,
    "SIGIL_GATEWAY_SESSION_RATE_PER_MINUTE": FAR,
    "SIGIL_GATE_RATE_LIMIT_PER_MINUTE": FAR,
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(tmp_path_factory):
    """Founded, one witness, sealed with k = 1."""
    async with machines.running(tmp_path_factory.mktemp("faults") / "data", ENV) as built:
        await built.seal(1, 1)
        yield built
