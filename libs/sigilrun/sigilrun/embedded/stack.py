"""The whole embedded stack in one call: servers, database, then the processes somebody else listed.

Order: lock the data folder, choose ports, prepare and start nats-server and Postgres side by side, make the
database, start the given processes, say ready, wait for SIGTERM, SIGINT or SIGHUP, stop backwards. A second
signal stops waiting and kills. Whatever happens on the way, what was started is stopped before the call ends.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from sigilrun.embedded import binaries, nats, ports, postgres
from sigilrun.embedded.folder import DataFolder
from sigilrun.embedded.supervisor import ProcessSpec, Supervisor

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Addresses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where everything is, and the passwords to it. Secret."""

    address: str
    api_port: int
    nats_url: str
    nats_monitor_url: str
    postgres_host: str
    postgres_port: int
    database: str
    role_passwords: dict[str, str]
    folder: Path

    def dsn(self, role: str) -> str:
        """A role's way to the database. Passwords are URL-safe as they are made."""
        password = self.role_passwords[role]
        return f"postgresql://{role}:{password}@{self.postgres_host}:{self.postgres_port}/{self.database}"


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to run. `bus_users` is asked once the folder is held, because seeds are kept there."""

    bus_users: Callable[[DataFolder], Sequence[nats.BusUser]]
    # Who isn't of the house and may connect, and what is reached from one bus account in another.
    outside: Callable[[DataFolder], Sequence[nats.BusUser]] = lambda _: ()
    crossings: Sequence[nats.Crossing] = ()
    # Database roles; the first owns the database.
    roles: tuple[str, ...]
    scrubs: str | None = None  # the one that may let go of the write-ahead log
    make_processes: Callable[[Addresses], Sequence[ProcessSpec]]
    # Runs to its end once the database is there, before any of the processes: migrations.
    prepare: Callable[[Addresses], Awaitable[None]] | None = None
    database: str = "sigil"
    # Asked for by number, refused if taken; None keeps or chooses one.
    port: int | None = None
    postgres_bin: Path | None = None


class Stack:
    """A running stack. Made by `running`."""

    def __init__(self, folder: DataFolder, supervisor: Supervisor) -> None:
        """Nothing has been started."""
        self.folder = folder
        self.supervisor = supervisor
        self.addresses: Addresses

    async def start(self, plan: Plan) -> None:
        """Start everything; returns when every critical process is ready.

        Raises:
            EmbeddedError: see its kinds; what was started is stopped by `running`.

        """
        folder = self.folder
        given = {} if plan.port is None else {"api": plan.port}
        chosen = ports.choose(folder.ports_file, ("api", "nats", "nats_monitor", "postgres"), given)
        bus = nats.Settings(
            binary=binaries.nats_server(),
            folder=folder.nats,
            port=chosen["nats"],
            monitor_port=chosen["nats_monitor"],
            server_name=folder.secret("nats_server_name", nats.new_server_name),
        )
        store = postgres.Settings(
            binaries=binaries.postgres(plan.postgres_bin),
            folder=folder.postgres,
            port=chosen["postgres"],
            superuser_password=folder.secret("postgres_superuser"),
            as_root=os.geteuid() == 0,
        )
        passwords = {role: folder.secret(f"postgres_role_{role}") for role in plan.roles}
        self.addresses = Addresses(
            address=f"http://{ports.LOOPBACK}:{chosen['api']}",
            api_port=chosen["api"],
            nats_url=bus.url,
            nats_monitor_url=bus.monitor_url,
            postgres_host=ports.LOOPBACK,
            postgres_port=store.port,
            database=plan.database,
            role_passwords=passwords,
            folder=folder.path,
        )
        nats.prepare(bus, plan.bus_users(folder), crossings=plan.crossings, outside=plan.outside(folder))
        folder.update(address=self.addresses.address, nats=bus.url)
        await postgres.prepare(store, folder.logs / "initdb.log")
        await self.supervisor.start(
            (
                nats.process(bus, folder.logs / "nats.log"),
                postgres.process(store, folder.logs / "postgres.log"),
            )
        )
        roles = [postgres.Role(name=name, password=password) for name, password in passwords.items()]
        await postgres.create_database(store, plan.database, owner=plan.roles[0], roles=roles, scrubs=plan.scrubs)
        if plan.prepare is not None:
            await plan.prepare(self.addresses)
        await self.supervisor.start(tuple(plan.make_processes(self.addresses)))


@contextlib.asynccontextmanager
async def holding(path: Path) -> AsyncGenerator[Stack]:
    """Hold a data folder with nothing running in it; whatever is started inside is stopped at the end.

    Raises:
        DataInUse: another run holds it.

    """
    # In a thread, because it may wait for the children of a killed run to leave.
    folder = await asyncio.to_thread(DataFolder(path).acquire)

    def report(processes: dict[str, int]) -> None:
        folder.update(processes=processes)

    try:
        async with Supervisor(report=report, keep_fds=(folder.lock_fd,)) as supervisor:
            yield Stack(folder, supervisor)
    finally:
        folder.release()


async def run_stack(path: Path, plan: Plan, on_ready: Callable[[Stack], None]) -> None:
    """Run a stack on a data folder until a signal asks it to stop; `on_ready` is called once, when it is.

    Raises:
        EmbeddedError: see its kinds. Nothing is left running.

    """
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    asked_again = asyncio.Event()

    def ask() -> None:
        (asked_again if asked.is_set() else asked).set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, ask)
    try:
        async with holding(path) as stack:
            stack.supervisor.hurry_when(asked_again)
            starting = asyncio.create_task(stack.start(plan))
            if await _done_before(starting, asked):
                on_ready(stack)
                await asked.wait()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _done_before(starting: asyncio.Task[None], asked: asyncio.Event) -> bool:
    """True once the start is done; False if a stop was asked for before. A failure of the start is raised."""
    stopping = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        return starting.done()
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
