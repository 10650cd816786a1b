"""The two embedded servers as their users meet them: what they keep, what they refuse, what they hide."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import nats as nats_client
import nkeys
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from sigilrun.embedded import binaries, folder, nats, ports, postgres, stack
from sigilrun.embedded.errors import BinaryMissing, DataInUse, EmbeddedError, PortTaken, StartFailed
from tests import machine as machines
from tests.waiting import until

USERS: dict[str, Any] = {
    "admin": {"publish": (">",), "subscribe": (">",)},
    "asker": {"publish": ("ask.>",), "subscribe": ("_INBOX.asker.>",)},
    "answerer": {"publish": (), "subscribe": ("ask.> answerers",), "allow_responses": True},
    "mute": {"publish": (), "subscribe": ()},
    "keeper": {"publish": (">",), "subscribe": (">",), "account": nats.STREAMS},
}


def bus_users(held: folder.DataFolder) -> list[nats.BusUser]:
    """The users above, their seeds kept in the data folder."""
    return [
        nats.BusUser(name=name, public_nkey=nats.kept_nkey(held.keys / f"bus_{name}"), **allowed)
        for name, allowed in USERS.items()
    ]


PLAN = stack.Plan(bus_users=bus_users, roles=("sigil_owner", "sigil_app"), make_processes=lambda _: ())


@contextlib.asynccontextmanager
async def bus(running: stack.Stack, user: str) -> AsyncGenerator[tuple[Client, list[str]]]:
    """A connection as one user, and the errors the server sends it."""
    errors: list[str] = []

    async def remember(error: Exception) -> None:
        errors.append(str(error))

    seed = (running.folder.keys / f"bus_{user}").read_text().strip()
    connection = await nats_client.connect(
        running.addresses.nats_url,
        nkeys_seed_str=seed,
        inbox_prefix=f"_INBOX.{user}",
        error_cb=remember,
        reconnect_time_wait=0.05,
        max_reconnect_attempts=-1,
    )
    try:
        yield connection, errors
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def database(running: stack.Stack, role: str) -> AsyncGenerator[asyncpg.Connection]:
    """A connection to the database as one role."""
    connection = await asyncpg.connect(running.addresses.dsn(role), ssl=False, timeout=5)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


def superuser(running: stack.Stack) -> postgres.Settings:
    """The settings the stack made for its Postgres."""
    return postgres.Settings(
        binaries=binaries.postgres(),
        folder=running.folder.postgres,
        port=running.addresses.postgres_port,
        superuser_password=running.folder.secret("postgres_superuser"),
        as_root=os.geteuid() == 0,
    )


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[stack.Stack]:
    """One stack without processes of its own for the tests that only ask."""
    async with stack.holding(tmp_path_factory.mktemp("servers") / "data") as held:
        await held.start(PLAN)
        yield held


async def test_publishing_what_is_not_listed_is_refused(running: stack.Stack) -> None:
    """A user may publish its own subjects; any other is refused by the server and reaches nobody."""
    async with bus(running, "admin") as (admin, _), bus(running, "asker") as (asker, errors):
        heard = await admin.subscribe(">")
        for _ in range(2):  # the library's first PING may pass the subscription on its way
            await admin.flush()
        await asker.publish("canon.append", b"forged")
        await asker.publish("ask.time", b"honest")
        await asker.flush()
        message = await heard.next_msg(timeout=30)
        assert (message.subject, message.data) == ("ask.time", b"honest")
        await until(lambda: bool(errors))
        assert "permissions violation for publish" in errors[0].lower()
        assert heard.pending_msgs == 0


async def test_listening_to_what_is_not_listed_is_refused(running: stack.Stack) -> None:
    """Another's inbox, and everything at once, stay closed."""
    async with bus(running, "admin") as (admin, _), bus(running, "asker") as (asker, errors):
        everything = await asker.subscribe(">")
        inbox = await asker.subscribe("_INBOX.answerer.>")
        await until(lambda: len(errors) == 2)
        await admin.publish("_INBOX.answerer.x", b"private")
        await admin.flush()
        await asker.flush()
        assert everything.pending_msgs == inbox.pending_msgs == 0
        assert all("permissions violation for subscription" in error.lower() for error in errors)


async def test_an_answerer_answers_whom_it_was_asked_by_and_says_nothing_else(running: stack.Stack) -> None:
    """allow_responses opens the reply subject of a received message, for that message only."""
    async with bus(running, "asker") as (asker, _), bus(running, "answerer") as (answerer, errors):
        asked: list[str] = []

        async def answer(message: Msg) -> None:
            asked.append(message.reply)
            await message.respond(b"noon")

        await answerer.subscribe("ask.>", queue="answerers", cb=answer)
        for _ in range(2):  # the library's first PING may pass the subscription on its way
            await answerer.flush()
        assert (await asker.request("ask.time", b"?", timeout=5)).data == b"noon"
        assert errors == []
        await answerer.publish("_INBOX.asker.guess", b"unasked")
        await answerer.publish("ask.time", b"unasked")
        await until(lambda: len(errors) == 2)
        # The queue is part of the permission: without it every replica would hear every request.
        await answerer.subscribe("ask.time")
        await until(lambda: len(errors) == 3)


async def test_empty_lists_mean_nothing_at_all(running: stack.Stack) -> None:
    """A user without subjects may connect and no more."""
    async with bus(running, "mute") as (mute, errors):
        await mute.publish("anything", b"")
        await mute.subscribe("anything")
        await until(lambda: len(errors) == 2)


@pytest.mark.parametrize("who", ["nobody", "an unlisted key", "a listed key without its seed"])
async def test_a_stranger_does_not_get_in(who: str, running: stack.Stack) -> None:
    """Without a listed key, or with one but without the seed behind it, the server says no and hangs up."""
    port = int(running.addresses.nats_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(ports.LOOPBACK, port)
    nonce = json.loads((await reader.readline()).removeprefix(b"INFO "))["nonce"].encode()
    seed, stranger = nats.generate_nkey()
    signature = base64.urlsafe_b64encode(nkeys.from_seed(bytearray(seed.encode())).sign(nonce)).decode().rstrip("=")
    listed = nats.kept_nkey(running.folder.keys / "bus_admin")
    claims = {
        "nobody": {},
        "an unlisted key": {"nkey": stranger, "sig": signature},
        "a listed key without its seed": {"nkey": listed, "sig": signature},
    }
    writer.write(f"CONNECT {json.dumps(claims[who])}\r\nPING\r\n".encode())
    async with asyncio.timeout(5):
        assert await reader.read() == b"-ERR 'Authorization Violation'\r\n"
    writer.close()
    await writer.wait_closed()


async def test_readiness_is_about_our_own_synced_server(running: stack.Stack) -> None:
    """Our server says it syncs each write; the same port under another name isn't taken for ready."""
    settings = nats.Settings(
        binary=binaries.nats_server(),
        folder=running.folder.nats,
        port=int(running.addresses.nats_url.rpartition(":")[2]),
        monitor_port=int(running.addresses.nats_monitor_url.rpartition(":")[2]),
        server_name=running.folder.secret("nats_server_name"),
    )
    assert await nats.ready(settings)
    assert not await nats.ready(msgspec.structs.replace(settings, server_name="sigil-other"))


@pytest.mark.parametrize("subject", ["", 'a"]}, jetstream: {', "two queue names", "line\nbreak", "back\\slash"])
def test_a_subject_that_would_break_out_of_the_configuration_is_refused(subject: str, tmp_path: Path) -> None:
    """Only subjects get between the quotes."""
    settings = nats.Settings(binary=tmp_path, folder=tmp_path, port=1, monitor_port=2, server_name="s")
    user = nats.BusUser(name="u", public_nkey=nats.generate_nkey()[1], publish=(subject,))
    with pytest.raises(EmbeddedError, match="not a subject"):
        nats.render_config(settings, [user])


def test_two_users_do_not_share_a_key_and_a_seed_is_no_public_key(tmp_path: Path) -> None:
    """An nkey names one user; a seed in its place is refused before it is written anywhere."""
    settings = nats.Settings(binary=tmp_path, folder=tmp_path, port=1, monitor_port=2, server_name="s")
    seed, public = nats.generate_nkey()
    assert nats.public_nkey(seed) == public
    twins = [nats.BusUser(name=name, public_nkey=public) for name in ("a", "b")]
    with pytest.raises(EmbeddedError, match="share a nkey"):
        nats.render_config(settings, twins)
    with pytest.raises(EmbeddedError, match="not a public user nkey"):
        nats.render_config(settings, [nats.BusUser(name="a", public_nkey=seed)])


async def test_stream_messages_outlive_kill_9_and_are_unreadable_on_disk(tmp_path: Path) -> None:
    """What JetStream acknowledged is there after kill -9 of the server, and the store doesn't show it."""
    canary = b"CANARY-of-the-stream-5f1b"
    async with stack.holding(tmp_path / "data") as held:
        await held.start(PLAN)
        async with bus(held, "keeper") as (keeper, _):
            await keeper.jetstream().add_stream(name="EVENTS", subjects=["events.>"])
            for number in range(20):
                await keeper.jetstream().publish("events.x", canary + str(number).encode())
        os.kill(held.supervisor.pids()["nats"], signal.SIGKILL)
        await until(lambda: held.supervisor.starts("nats") == 2)
        assert await held.supervisor.wait_ready("nats", 10)
        async with bus(held, "keeper") as (keeper, _):
            info = await keeper.jetstream().stream_info("EVENTS")
            assert info.state.messages == 20
            message = await keeper.jetstream().get_msg("EVENTS", 20)
            assert message.data == canary + b"19"
        stored = [content for _, content in machines.contents(held.folder.nats)]
        assert sum(map(len, stored)) > 20 * len(canary)
        assert not any(b"CANARY" in content for content in stored)


async def test_a_commit_is_durable_and_pages_are_checked(running: stack.Stack) -> None:
    """The settings that durability rests on are those of the running server."""
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "password_encryption": "scram-sha-256",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
    }
    async with database(running, "sigil_app") as connection:
        names = "select name, setting from pg_settings where name = any($1)"
        async with contextlib.AsyncExitStack() as both:
            admin = await asyncpg.connect(
                host="127.0.0.1",
                port=running.addresses.postgres_port,
                user="postgres",
                password=running.folder.secret("postgres_superuser"),
                database="sigil",
                ssl=False,
            )
            both.push_async_callback(admin.close)
            assert dict(await admin.fetch(names, list(wanted))) == wanted
        assert await connection.fetchval("select current_setting('is_superuser')") == "off"


async def test_only_the_password_opens_the_database(running: stack.Stack) -> None:
    """A wrong password, the name of another role, and no password are all refused."""
    place = {"host": "127.0.0.1", "port": running.addresses.postgres_port, "database": "sigil", "ssl": False}
    app_password = running.addresses.role_passwords["sigil_app"]
    for user, password in (("sigil_app", "wrong"), ("sigil_owner", app_password), ("postgres", app_password)):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(user=user, password=password, **place)
    with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.exceptions.InterfaceError)):
        await asyncpg.connect(user="sigil_app", password="", **place)


async def test_the_owner_builds_and_the_application_does_not(running: stack.Stack) -> None:
    """The first role owns the database; the second may connect and was granted nothing more."""
    async with database(running, "sigil_owner") as owner:
        await owner.execute("create schema ledger; create table ledger.head (v int)")
        await owner.execute("insert into ledger.head values (7)")
        assert await owner.fetchval("select v from ledger.head") == 7
    async with database(running, "sigil_app") as app:
        for attempt in (
            "select * from ledger.head",
            "create table public.mine (x int)",
            "create schema mine",
            "create role friend superuser",
            "select pg_read_file('/etc/passwd')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute(attempt)


async def test_making_the_database_again_changes_only_the_password(running: stack.Stack) -> None:
    """create_database is idempotent, and the password it is given is the one that counts."""
    settings = superuser(running)
    roles = [postgres.Role(name=name, password=f"{name}-new") for name in ("other_owner", "other_app")]
    for _ in range(2):
        await postgres.create_database(settings, "other", owner="other_owner", roles=roles)
    place = {"host": "127.0.0.1", "port": settings.port, "database": "other", "ssl": False}
    connection = await asyncpg.connect(user="other_app", password="other_app-new", **place)
    await connection.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(user="sigil_app", password=running.addresses.role_passwords["sigil_app"], **place)


async def test_names_that_would_break_out_of_sql_are_refused(running: stack.Stack) -> None:
    """Role and database names are plain identifiers, and the owner is one of the roles."""
    role = postgres.Role(name="fine", password="p")
    bad = postgres.Role(name="x superuser", password="p")
    for name, owner, roles in (
        ('sigil"; drop', "fine", [role]),
        ("fine", "x superuser", [bad]),
        ("fine", "absent", [role]),
    ):
        with pytest.raises(EmbeddedError):
            await postgres.create_database(superuser(running), name, owner=owner, roles=roles)


async def test_the_server_log_quotes_no_values(running: stack.Stack) -> None:
    """A refused row leaves its error in the log, and neither its values nor the parameters."""
    async with database(running, "sigil_owner") as owner:
        await owner.execute("create table canaries (name text primary key)")
        await owner.execute("insert into canaries values ($1)", "CANARY-row")
        with pytest.raises(asyncpg.UniqueViolationError):
            await owner.execute("insert into canaries values ($1)", "CANARY-row")
    log = (running.folder.logs / "postgres.log").read_text()
    assert "duplicate key value violates unique constraint" in log
    assert "CANARY" not in log


async def test_nobody_else_can_read_the_data_folder(running: stack.Stack) -> None:
    """Every folder is 0700 and every file 0600 or less, whoever it belongs to, whatever the umask."""
    paths = [running.folder.path, *machines.paths_below(running.folder.path)]
    assert len(paths) > 500
    # Postgres may drop a file between the listing and the look.
    open_to_others = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_mode & 0o077:
                open_to_others.append(path)
    assert open_to_others == []
    assert stat.S_IMODE(running.folder.run_file.stat().st_mode) == 0o600


async def test_no_secret_is_on_a_command_line_or_in_an_environment(running: stack.Stack) -> None:
    """What the two servers were started with shows neither passwords, nor seeds, nor the stream key."""
    held = running.folder
    secrets = [path.read_text().strip() for path in held.keys.iterdir() if path.name != "nats_server_name"]
    secrets.append((held.nats / "stream_key.conf").read_text().split('"')[1])
    assert len(secrets) == 9
    for pid in running.supervisor.pids().values():
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert shown
        assert not any(secret.encode() in shown for secret in secrets)


async def test_postgres_is_not_root_and_holds_no_capability(running: stack.Stack) -> None:
    """The server's user isn't root, and has at most the right to reach its programs."""
    status = Path(f"/proc/{running.supervisor.pids()['postgres']}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert "0" not in fields["Uid"].split()
    if not binaries.needs_search(binaries.postgres().postgres):
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


async def test_a_folder_in_use_is_refused_and_says_by_whom(running: stack.Stack) -> None:
    """A second holder is turned away at once and hears the process to look for."""
    with pytest.raises(DataInUse, match=f"in use by process {os.getpid()}"):
        folder.DataFolder(running.folder.path).acquire(leaving_timeout_s=0)


async def test_a_cluster_of_another_postgres_is_refused(tmp_path: Path) -> None:
    """Data made by another major version isn't touched."""
    settings = postgres.Settings(
        binaries=binaries.postgres(), folder=tmp_path, port=1, superuser_password="p", as_root=False
    )
    settings.data.mkdir()
    (settings.data / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedError, match="made by Postgres 16"):
        await postgres.prepare(settings, tmp_path / "log")
    assert [path.name for path in settings.data.iterdir()] == ["PG_VERSION"]


async def test_a_failing_initdb_says_why_and_leaves_no_half_cluster(tmp_path: Path) -> None:
    """The message carries initdb's own words; the next start begins afresh."""
    broken = tmp_path / "initdb"
    broken.write_text("#!/bin/sh\ntouch half; echo no space left; exit 3\n")
    broken.chmod(0o755)
    place = tmp_path / "postgres"
    place.mkdir()
    programs = binaries.PostgresBinaries(initdb=broken, postgres=broken)
    settings = postgres.Settings(binaries=programs, folder=place, port=1, superuser_password="p", as_root=False)
    with pytest.raises(StartFailed, match=r"(?s)initdb ended with 3.*no space left"):
        await postgres.prepare(settings, tmp_path / "log")
    assert not settings.data.exists()
    assert not (place / "password").exists()


def test_a_port_asked_for_and_taken_is_refused_by_name(tmp_path: Path) -> None:
    """The person who typed a port hears which one is taken."""
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            ports.choose(tmp_path / "ports.json", ("api",), {"api": port})
    with pytest.raises(PortTaken, match="65536"):
        ports.choose(tmp_path / "ports.json", ("api",), {"api": 65_536})


def test_ports_are_kept_and_only_a_taken_one_changes(tmp_path: Path) -> None:
    """A folder keeps its ports; one that was taken meanwhile is chosen anew, the others stay."""
    path, names = tmp_path / "ports.json", ("api", "nats", "postgres")
    first = ports.choose(path, names)
    assert len(set(first.values())) == 3
    assert ports.choose(path, names) == first
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ports.LOOPBACK, first["nats"]))
        taken.listen()
        second = ports.choose(path, names)
    assert second["nats"] != first["nats"]
    assert (second["api"], second["postgres"]) == (first["api"], first["postgres"])


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"api": "80"}', b'{"api": true}', b'{"api": 99999}', b"\xff"])
def test_a_damaged_ports_file_is_replaced(content: bytes, tmp_path: Path) -> None:
    """The file holds nothing that can be lost, so nonsense in it never stops a start."""
    path = tmp_path / "ports.json"
    path.write_bytes(content)
    assert 1024 < ports.choose(path, ("api",))["api"] < 65_536


def test_a_missing_server_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured path that isn't a program is refused, not silently replaced by another."""
    with pytest.raises(BinaryMissing, match="nowhere"):
        binaries.nats_server(tmp_path / "nowhere")
    monkeypatch.setenv("SIGIL_NATS_SERVER", str(tmp_path))
    with pytest.raises(BinaryMissing, match=str(tmp_path)):
        binaries.nats_server()
    monkeypatch.setenv("SIGIL_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(BinaryMissing, match="initdb"):
        binaries.postgres()
