"""Bring the database to this program's tables: `python -m services.canon_writer.migrate`, as canon_owner.

Safe to run again, and by several at once: a lock lets one through, each migration is one transaction with its own mark, and what is
marked is not run again. A migration that was changed after it had run is refused: write a new one.
"""

import asyncio
import importlib.resources
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from sigilcore import digest
from sigilrun import postgres, settings

RESIDENT = "canon_writer"
_LOCK = "select pg_advisory_lock(hashtextextended('sigil canon migrations', 0))"
_UNLOCK = "select pg_advisory_unlock(hashtextextended('sigil canon migrations', 0))"
_MARKS = """create table if not exists public.canon_migration (
    name text primary key, sha256 text not null, applied_at timestamptz not null default clock_timestamp())"""


class ChangedMigration(Exception):  # noqa: N818 - names what is found
    """A migration isn't the one that ran."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """A numbered file."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Over its text."""
        return digest.sha256_hex(self.sql.encode())


def migrations() -> list[Migration]:
    """The numbered files in order, as installed with the program."""
    folder = importlib.resources.files(__package__).joinpath("migrations")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [Migration(name=file.name, sql=file.read_text("utf-8")) for file in files]


async def migrate(options: settings.Canon) -> list[str]:
    """Run what hasn't run; the names of what did. Raises `ChangedMigration`, `postgres.Unavailable`."""
    connection = await postgres.connect(options, application="canon_migrate")
    try:
        await connection.execute(_LOCK)
        try:
            return await _migrate(connection)
        finally:
            await connection.execute(_UNLOCK)
    finally:
        await connection.close()


async def _migrate(connection: Any) -> list[str]:
    await connection.execute("set client_min_messages = warning")
    await connection.execute(_MARKS)
    done = {
        row["name"]: row["sha256"] for row in await connection.fetch("select name, sha256 from public.canon_migration")
    }
    ran = []
    for migration in migrations():
        if migration.name in done:
            if done[migration.name] != migration.sha256:
                raise ChangedMigration(f"{migration.name} was changed after it had run; write a new one")
            continue
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into public.canon_migration (name, sha256) values ($1, $2)", migration.name, migration.sha256
            )
        ran.append(migration.name)
    return ran


def main() -> None:
    """Migrate the database that the settings name, as the role that they name."""
    path = Path(os.environ.get("SIGIL_CONFIG", "config.toml"))
    try:
        options = settings.load(path, os.environ, resident=RESIDENT, needs=("canon",)).canon
        assert options is not None
        ran = asyncio.run(migrate(options))
    except (settings.SettingsError, postgres.Unavailable, postgres.PostgresError, ChangedMigration) as error:
        print(f"migrate: {error}", file=sys.stderr)  # noqa: T201 - a command's own words
        sys.exit(1)
    print(f"migrated: {', '.join(ran) or 'nothing to do'}")  # noqa: T201 - a command's own words


if __name__ == "__main__":
    main()
