"""The gateway's process."""

import contextlib
from collections.abc import AsyncIterator

from services.gateway.app import Gateway
from sigilrun import service

RESIDENT = "gateway"


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Gateway]:
    """The gateway from its parts, listening; leaving the block ends what is in flight."""
    gateway = Gateway(parts.bus, parts.settings.gateway, parts.deployment, parts.state_dir)
    async with gateway.serving(patience_s=parts.settings.bus.drain_timeout_s):
        yield gateway


if __name__ == "__main__":
    service.run(RESIDENT, build, {})
