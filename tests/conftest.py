"""Fixtures that several folders share."""

import hypothesis
import pytest
import pytest_asyncio
import structlog

from sigilrun import answer
from tests import database as databases

# Timing is not a test: a machine under load draws slowly, and no property is less true for it.
hypothesis.settings.register_profile("sigil", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("sigil")


@pytest.fixture(autouse=True)
def logging_as_at_the_start():
    """A process sets its logging up once; a test that plays several processes must not leave it to the next. A fault is told without the
    values of all frames, which on a busy machine take longer to print than a caller waits."""
    structlog.reset_defaults()
    *others, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])


@pytest.fixture(autouse=True)
def every_refusal_is_declared(request, monkeypatch):
    """Whatever a service refuses with in any test, its contract says that it may; but for files that play services of their own."""
    found = set()
    monkeypatch.setattr(answer, "undeclared", lambda command, refused: found.add((command.name, str(refused.code))))
    yield
    assert found == set() or getattr(request.module, "INVENTED_HANDLERS", False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(tmp_path_factory):
    """One embedded Postgres for the whole run."""
    async with databases.server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def database(postgres_server):
    """A fresh, migrated database."""
    return await postgres_server.database()
