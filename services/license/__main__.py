"""The license service's process."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from services.license.ledger import BusLedger
from services.license.service import HANDLERS, License
from sigilcore.contracts import license as wire
from sigilrun import service


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[License]:
    """The license service from its parts."""
    yield License(
        ledger=BusLedger(parts),
        clock=parts.clock,
        signer=parts.own_signer,
        deployment=parts.deployment,
        token_hash=_token_hash(parts.settings.deployment.bootstrap_token_hash_file),
    )


def _token_hash(path: Path | None) -> str | None:
    """The hash of the one-time token, while the operator keeps it."""
    if path is None:
        return None
    with contextlib.suppress(FileNotFoundError):
        return path.read_text("ascii").strip()
    return None


if __name__ == "__main__":
    service.run(wire.SERVICE, build, HANDLERS)
