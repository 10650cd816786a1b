"""A real Postgres for tests: one embedded server, and a fresh, migrated database whenever a test asks for one."""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec

from services.canon_writer import migrate
from sigilrun import private_files, settings
from sigilrun.embedded import binaries, ports, postgres, supervisor

ROLES = ("canon_owner", "canon_writer", "canon_reader")
_numbers = itertools.count(1)


class Server:
    """A running server."""

    def __init__(self, place: Path, options: postgres.Settings, running: supervisor.Supervisor) -> None:
        self.place = place
        self.options = options
        self._running = running

    async def database(self) -> "Database":
        """A new database with the canon's tables."""
        made = Database(self, f"sigil_{next(_numbers)}")
        roles = [postgres.Role(name=role, password=f"password-of-{role}") for role in ROLES]
        await postgres.create_database(self.options, made.name, owner=ROLES[0], roles=roles, scrubs=ROLES[1])
        await migrate.migrate(made.options("canon_owner"))
        return made

    def kill(self) -> None:
        """`kill -9` the server; it comes back by itself on the same port with the same data."""
        os.kill(self.pid, signal.SIGKILL)

    async def restarted(self, starts: int, timeout_s: float = 20.0) -> None:
        """Return once it was started so often in all, and answers."""
        async with asyncio.timeout(timeout_s):
            while self._running.starts("postgres") < starts:
                await asyncio.sleep(0.02)
        assert await self._running.wait_ready("postgres", timeout_s)

    @property
    def starts(self) -> int:
        return self._running.starts("postgres")

    @property
    def pid(self) -> int:
        return self._running.pids()["postgres"]


class Database:
    """One database of the server."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name

    def options(self, role: str, **changed: object) -> settings.Canon:
        """A role's settings."""
        return msgspec.structs.replace(
            settings.Canon(
                host=ports.LOOPBACK,
                port=self.server.options.port,
                database=self.name,
                user=role,
                password_file=self.server.place / f"password-of-{role}",
            ),
            **changed,
        )

    @contextlib.asynccontextmanager
    async def connection(self, role: str = postgres.SUPERUSER) -> AsyncIterator[asyncpg.Connection]:
        """A bare connection, for what no service of ours may do."""
        superuser = role == postgres.SUPERUSER
        password = self.server.options.superuser_password if superuser else f"password-of-{role}"
        connection = await asyncpg.connect(
            host=ports.LOOPBACK,
            port=self.server.options.port,
            database=self.name,
            user=role,
            password=password,
            ssl=False,
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def tamper(self, statement: str, *arguments: object) -> None:
        """Change what may not be changed, as somebody with the whole machine can."""
        async with self.connection() as connection, connection.transaction():
            tables = await connection.fetch("select tablename from pg_tables where schemaname = 'canon'")
            for row in tables:
                await connection.execute(f"alter table canon.{row['tablename']} disable trigger user")
            await connection.execute(statement, *arguments)
            for row in tables:
                await connection.execute(f"alter table canon.{row['tablename']} enable trigger user")


@contextlib.asynccontextmanager
async def server(place: Path, *, data: Path | None = None) -> AsyncIterator[Server]:
    """A server in an empty folder, ended at the end; with its data in another one, if that is named."""
    for folder in (data or place / "postgres", place / "logs"):
        folder.mkdir(mode=0o700, parents=True)
    for role in ROLES:
        private_files.write_new(place / f"password-of-{role}", f"password-of-{role}\n".encode())
    options = postgres.Settings(
        binaries=binaries.postgres(),
        folder=data or place / "postgres",
        port=ports.free_port(),
        superuser_password=secrets.token_urlsafe(16),
        as_root=os.geteuid() == 0,
    )
    await postgres.prepare(options, place / "logs" / "initdb.log")
    async with supervisor.Supervisor() as running:
        await running.start((postgres.process(options, place / "logs" / "postgres.log"),))
        yield Server(place, options, running)
