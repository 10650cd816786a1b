"""Postgres as services reach it; asyncpg is imported here and where the server is made. Thin: connections with the settings we rely on.

Decides what a failure of the database is called: `Unavailable` when it can't be reached, was interrupted, or is shutting down, so that
the outcome of a commit may be unknown. Everything else is asyncpg's own error, re-exported here by name.
"""

from typing import Any

import asyncpg

from sigilrun import private_files, settings

Pool = asyncpg.Pool
Record = asyncpg.Record
PostgresError = asyncpg.PostgresError
UniqueViolation = asyncpg.UniqueViolationError

# The connection is gone or going: what was in flight may or may not have been committed.
LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)

CONNECT_S = 5.0
COMMAND_S = 30.0


class Unavailable(Exception):  # noqa: N818 - what is found
    """The database can't be reached now; a commit that was under way has an unknown outcome."""


async def connect(options: settings.Canon, *, application: str) -> Any:
    """One connection of one's own, `synchronous_commit` on. Raises `Unavailable`."""
    try:
        return await asyncpg.connect(**_arguments(options, application))
    except LOST as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


async def pool(options: settings.Canon, *, application: str) -> Any:
    """A pool of `pool_size` connections. Raises `Unavailable`."""
    try:
        return await asyncpg.create_pool(
            min_size=1, max_size=options.pool_size, reset=_as_it_is, **_arguments(options, application)
        )
    except LOST as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


async def _as_it_is(_: Any) -> None:
    """Connections of a pool are given back as they are: who reads leaves nothing behind, and resetting them is a round trip a read."""


def _arguments(options: settings.Canon, application: str) -> dict[str, Any]:
    password = private_files.read(options.password_file, 1024) or b""
    return {
        "host": options.host,
        "port": options.port,
        "database": options.database,
        "user": options.user,
        "password": password.decode().removesuffix("\n"),
        "timeout": CONNECT_S,
        "command_timeout": COMMAND_S,
        "server_settings": {"application_name": application, "synchronous_commit": "on"},
    }
