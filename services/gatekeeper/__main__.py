"""The gatekeeper's process."""

import contextlib
from collections.abc import AsyncIterator

from services.gatekeeper import rules
from services.gatekeeper.limits import Limits
from services.gatekeeper.log import FollowedLog
from services.gatekeeper.service import HANDLERS, Gatekeeper
from sigilcore.contracts import gatekeeper as contract
from sigilrun import service


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Gatekeeper]:
    """The gatekeeper from its parts; leaving the block ends what is in flight and writes the last summary."""
    gatekeeper = Gatekeeper(
        limits=Limits.of(parts.settings.gate),
        clock=parts.clock,
        signer=parts.own_signer,
        log=FollowedLog(parts),
    )
    parts.presence.carried = rules.carried
    await gatekeeper.start()
    try:
        yield gatekeeper
    finally:
        await gatekeeper.stop()


if __name__ == "__main__":
    service.run(contract.SERVICE, build, HANDLERS)
