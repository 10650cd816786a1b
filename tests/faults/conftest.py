"""One real, sealed house that only bad requests come to; its rate limits are far away, since they would answer first."""

import pytest_asyncio

from tests import machine as machines
from tests import smalldisk

# What needs a disk that can be filled isn't collected where none can be made; see `smalldisk`.
collect_ignore = [] if smalldisk.way() else ["test_disk_full.py"]

FAR = "1000000"
ENV = {
    "SIGIL_GATEWAY_RATE_LIMIT_PER_MINUTE": FAR,
    "SIGIL_GATEWAY_SESSION_RATE_PER_MINUTE": FAR,
    "SIGIL_GATE_RATE_LIMIT_PER_MINUTE": FAR,
}


def pytest_report_header():
    """Says what is left out."""
    return (
        ""
        if smalldisk.way()
        else "test_disk_full.py is left out: neither root nor a user namespace may mount a tmpfs here"
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(tmp_path_factory):
    """Founded, one witness, sealed with k = 1."""
    async with machines.running(tmp_path_factory.mktemp("faults") / "data", ENV) as built:
        await built.seal(1, 1)
        yield built
