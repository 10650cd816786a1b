"""Fixtures that several folders share."""

import pytest_asyncio

from tests import database as databases


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(tmp_path_factory):
    """One embedded Postgres for the whole run."""
    async with databases.server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def database(postgres_server):
    """A fresh, migrated database."""
    return await postgres_server.database()
