"""A real bus for tests: an embedded nats-server with the house's own permissions, and a connection per identity.

Example::

    async with testing.bus_house(tmp_path) as house:
        writer, gate = await house.bus("canon_writer"), await house.bus("gatekeeper")
"""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from sigilrun import identities, settings
from sigilrun.bus import Bus
from sigilrun.embedded import binaries, nats, ports
from sigilrun.embedded.supervisor import Supervisor

TENANT = "default"


class BusHouse:
    """A running server. `bus` connects; everything is closed at the end of `bus_house`."""

    def __init__(self, folder: Path, tenant: str, server: nats.Settings, supervisor: Supervisor) -> None:
        """Use `bus_house`."""
        self.folder = folder
        self.tenant = tenant
        self.url = server.url
        self._supervisor = supervisor
        self._stack = contextlib.AsyncExitStack()

    @property
    def seeds(self) -> Path:
        """The folder of nkey seeds, `bus_<name>` each."""
        return self.folder / "keys"

    def options(self, name: str, **changed: int) -> settings.Bus:
        """An identity's bus settings; times are short, since the server is near."""
        given = {"request_timeout_s": 2, "reconnect_wait_ms": 20, "drain_timeout_s": 3} | changed
        return settings.Bus(url=self.url, nkey_seed_file=identities.seed_file(self.seeds, name), **given)

    async def bus(self, name: str, **changed: int) -> Bus:
        """A connection as this identity, closed at the end."""
        bus = await Bus.connect(self.options(name, **changed), name)
        self._stack.push_async_callback(bus.close)
        return bus

    def kill(self) -> None:
        """`kill -9` the server; it comes back by itself on the same port with the same data."""
        os.kill(self._supervisor.pids()["nats"], signal.SIGKILL)

    async def ready(self, timeout_s: float = 10.0) -> None:
        """Return once the server answers (again)."""
        if not await self._supervisor.wait_ready("nats", timeout_s):
            raise TimeoutError("nats-server is not ready")

    async def close(self) -> None:
        """Close every connection."""
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def bus_house(folder: Path, *, tenant: str = TENANT) -> AsyncIterator[BusHouse]:
    """A server of its own in an empty folder, on free loopback ports, ended at the end."""
    (folder / "keys").mkdir(mode=0o700, parents=True)
    (folder / "nats").mkdir(mode=0o700)
    port = ports.free_port()
    server = nats.Settings(
        binary=binaries.nats_server(),
        folder=folder / "nats",
        port=port,
        monitor_port=ports.free_port((port,)),
        server_name=nats.new_server_name(),
    )
    nats.prepare(server, identities.bus_users(folder / "keys", tenant))
    async with Supervisor() as supervisor:
        await supervisor.start((nats.process(server, folder / "nats.log"),))
        house = BusHouse(folder, tenant, server, supervisor)
        try:
            yield house
        finally:
            await house.close()
