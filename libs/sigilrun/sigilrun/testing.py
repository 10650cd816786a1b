"""A real bus for tests: an embedded nats-server with the house's own permissions, and a connection per identity.

Example::

    async with testing.bus_house(tmp_path / "house") as house:
        writer, gate = await house.bus("canon_writer"), await house.bus("gatekeeper")
        async with service.running("license", build, HANDLERS, house.settings("license")) as one:
            ...
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from sigilcore import ids, note
from sigilcore.contracts import canon
from sigilcore.contracts import house as contract
from sigilrun import identities, key_format, keys, outside, private_files, settings, stream
from sigilrun.bus import Bus
from sigilrun.embedded import binaries, nats, ports
from sigilrun.embedded.supervisor import Supervisor
from sigilrun.settings_sections import DeploymentFile

TENANT = "default"
_DEMOLISHER = "demolisher"
_LISTENER = "listener"
_PASSPHRASE = b"for tests only"


class BusHouse:
    """A running server, and the keys of a whole deployment. Connections are closed at the end of `bus_house`."""

    def __init__(self, folder: Path, server: nats.Settings, supervisor: Supervisor) -> None:
        """Use `bus_house`."""
        self.folder = folder
        self.url = server.url
        self._server = server
        self._outside: list[nats.BusUser] = []
        self._supervisor = supervisor
        self._stack = contextlib.AsyncExitStack()
        # As cheap as the format allows: what is tested isn't the derivation.
        self.keystore = keys.Keystore.create(folder / "keystore", _PASSPHRASE, kdf=key_format.CHEAPEST)
        self._stack.callback(self.keystore.close)
        self.deployment = self._deploy()

    @property
    def server_pid(self) -> int:
        """The nats-server's process."""
        return self._supervisor.pids()["nats"]

    @property
    def seeds(self) -> Path:
        """The folder of nkey seeds, `bus_<name>` each."""
        return self.folder / "keys"

    def options(self, name: str, *, max_in_flight: int = 512, reserved_in_flight: int = 32) -> settings.Bus:
        """An identity's bus settings; times are short, since the server is near."""
        return settings.Bus(
            url=self.url,
            nkey_seed_file=identities.seed_file(self.seeds, name),
            stream_nkey_seed_file=identities.seed_file(self.seeds, contract.KEEPER) if name == canon.WRITER else None,
            request_timeout_s=2,
            reconnect_wait_ms=20,
            drain_timeout_s=3,
            max_in_flight=max_in_flight,
            reserved_in_flight=reserved_in_flight,
        )

    def settings(self, name: str, *, instance: str = "main") -> settings.Settings:
        """All settings of a process, as `service.running` takes them."""
        return settings.Settings(
            bus=self.options(name),
            deployment=settings.Deployment(file=self.folder / "deployment.json"),
            service=settings.Service(state_dir=self.folder / "services" / f"{name}-{instance}", instance=instance),
            keystore=settings.Keystore(path=self.folder / "keystore", passphrase_file=self.folder / "passphrase"),
            deployed=self.deployment,
        )

    async def bus(self, name: str, *, max_in_flight: int = 512, reserved_in_flight: int = 32) -> Bus:
        """A connection as this identity, closed at the end."""
        options = self.options(name, max_in_flight=max_in_flight, reserved_in_flight=reserved_in_flight)
        bus = await Bus.connect(options, name)
        self._stack.push_async_callback(bus.close)
        return bus

    async def outside(self, name: str, scopes: Sequence[tuple[str, str]], genesis: str) -> Path:
        """Let in a consumer from outside of the house, while the server runs; its folder."""
        given = self.folder / "outside" / name
        given.mkdir(mode=0o700, parents=True)
        public = nats.kept_nkey(given / outside.SEED)
        account = outside.Account(
            name=name, url=self.url, scopes=tuple(scopes), genesis=genesis, deployment=self.deployment
        )
        private_files.write_new(given / outside.ACCOUNT, msgspec.json.encode(account))
        allowed = contract.outside(name, TENANT, scopes)
        self._outside.append(
            nats.BusUser(name=name, public_nkey=public, publish=allowed.publish, subscribe=allowed.subscribe)
        )
        await self._change_outside()
        return given

    async def end_outside(self, name: str) -> None:
        """Let a consumer in no more."""
        self._outside = [user for user in self._outside if user.name != name]
        await self._change_outside()

    async def _change_outside(self) -> None:
        await nats.change_outside(self._server.folder, self._server.monitor_port, self.server_pid, self._outside)

    def kill(self) -> None:
        """`kill -9` the server; it comes back by itself on the same port with the same data."""
        os.kill(self.server_pid, signal.SIGKILL)

    async def restarted(self, starts: int, timeout_s: float = 10.0) -> None:
        """Return once the server was started so often in all, and answers."""
        async with asyncio.timeout(timeout_s):
            while self._supervisor.starts("nats") < starts:
                await asyncio.sleep(0.01)
        if not await self._supervisor.wait_ready("nats", timeout_s):
            raise TimeoutError("nats-server is not ready")

    async def delete_stream(self) -> None:
        """What no identity of the house may do: somebody with the machine removes the stream."""
        await self._demolish("DELETE", b"")

    async def truncate_stream(self, upto: int) -> None:
        """What no identity of the house may do: somebody with the machine removes all below a stream sequence."""
        await self._demolish("PURGE", msgspec.json.encode({"seq": upto}))

    async def forge_event(self, event: stream.Event) -> None:
        """What no identity of the house but the writer may do: somebody with the machine puts a message on the stream."""
        demolisher = await Bus.connect(self.options(_DEMOLISHER), _DEMOLISHER)
        await demolisher.request(event.subject, event.body, headers=event.headers, timeout_s=5)
        await demolisher.close()

    async def tap(self) -> Bus:
        """What no identity of the house has: a connection to the stream's account that may say and hear everything."""
        return await self.bus(_DEMOLISHER)

    async def whole_bus(self) -> Bus:
        """The same of the house's account."""
        return await self.bus(_LISTENER)

    async def _demolish(self, verb: str, body: bytes) -> None:
        demolisher = await Bus.connect(self.options(_DEMOLISHER), _DEMOLISHER)
        subject = f"{contract.JETSTREAM}.STREAM.{verb}.{contract.stream(TENANT)}"
        await demolisher.request(subject, body, timeout_s=5)
        await demolisher.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._stack.aclose()

    def _deploy(self) -> DeploymentFile:
        """Service keys, the log's key, deployment.json."""
        runtime_id = ids.new()
        services = {name: self.keystore.generate(name).hex() for name in contract.SERVICE_KEYS}
        log = note.VerifierKey.of(
            contract.origin(runtime_id, TENANT), note.ED25519, self.keystore.generate(contract.LOG_KEY)
        )
        deployed = DeploymentFile(runtime_id=runtime_id, tenant=TENANT, services=services, log=log.format())
        self.keystore.generate_aead(contract.PAYLOAD_KEY)
        private_files.write_new(self.folder / "deployment.json", msgspec.json.encode(deployed))
        private_files.write_new(self.folder / "passphrase", _PASSPHRASE)
        return deployed


@contextlib.asynccontextmanager
async def bus_house(folder: Path, *, data: Path | None = None) -> AsyncIterator[BusHouse]:
    """A server of its own in a new folder, on free loopback ports, ended at the end; with its streams in another one, if that is named."""
    streams = data or folder / "nats"
    for part in (folder, folder / "keys", streams, folder / "services"):
        part.mkdir(mode=0o700, parents=True)
    port = ports.free_port()
    server = nats.Settings(
        binary=binaries.nats_server(),
        folder=streams,
        port=port,
        monitor_port=ports.free_port((port,)),
        server_name=nats.new_server_name(),
    )
    users = identities.bus_users(folder / "keys", TENANT)
    for name, account in ((_DEMOLISHER, nats.STREAMS), (_LISTENER, nats.HOUSE)):
        seed = nats.kept_nkey(identities.seed_file(folder / "keys", name))
        users.append(nats.BusUser(name=name, public_nkey=seed, publish=(">",), subscribe=(">",), account=account))
    nats.prepare(server, users, crossings=identities.crossings(TENANT))
    async with Supervisor() as supervisor:
        await supervisor.start((nats.process(server, folder / "nats.log"),))
        house = BusHouse(folder, server, supervisor)
        try:
            yield house
        finally:
            await house.close()
