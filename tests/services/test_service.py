"""A process's life, and the seam that every call passes."""

import asyncio
import contextlib
import json
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sigilcore import clock, digest, ids, permit, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, knowledge
from sigilcore.contracts import license as licence_contract
from sigilcore.contracts.command import Admission
from sigilcore.refusals import Code, Refused
from sigilrun import behalf, identities, private_files, service, testing
from sigilrun.replay import OnceOnly, Use
from tests import simulator
from tests.services.canon_on_bus import CanonOnBus, canon_on_bus

NOTED = licence_contract.LIST

INVENTED_HANDLERS = True  # what they refuse is no contract's


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[list[service.Call]]:
    """A service that remembers its calls."""
    yield []


async def remember(calls: list[service.Call], request: Any, call: service.Call) -> msgspec.Struct:
    """Keep the call, and refuse with what came, so that a test can see it."""
    calls.append(call)
    raise Refused(Code.NOT_FOUND, type(request).__name__)


class World:
    """A license service that remembers, a ledger, and somebody who asks."""

    def __init__(self, running: testing.BusHouse, canon: CanonOnBus) -> None:
        """See `world`."""
        self.running = running
        self.canon = canon
        self.ledger = canon.ledger

    async def ask(self, body: bytes, token: str | None, command: Any = NOTED) -> Refused:
        """What the service refuses with."""
        gateway = await self.running.bus("gateway")
        with pytest.raises(Refused) as caught:
            await gateway.call(command, body, permit=token)
        return caught.value

    def permitted(self, body: bytes = b"{}", command: str = NOTED.name) -> str:
        """A permit for this call by Root, now; for any bytes, also those that the gate itself would refuse."""
        self.ledger.clock.ms = clock.SystemClock().now_ms()
        granted = self.ledger.granted(self.ledger.root, command)
        bound = digest.parameter_digest(bytes.fromhex(granted.salt), body)
        granted = msgspec.structs.replace(granted, digest=bound)
        return permit.seal(self.ledger.services["gatekeeper"], granted)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A founded ledger with Root's licence."""
    async with canon_on_bus(tmp_path / "house") as (running, canon):
        canon.ledger.found()
        canon.ledger.open_instances("gatekeeper", "license")
        canon.ledger.root_licence()
        await canon.publish()
        yield World(running, canon)


@contextlib.asynccontextmanager
async def ready(world: World) -> AsyncIterator[list[service.Call]]:
    """A process of the service, serving, and the calls that it remembers."""
    handlers: service.Handlers[list[service.Call]] = {
        NOTED: remember,
        licence_contract.VALIDATE: remember,
        licence_contract.BOOTSTRAP: remember,
    }
    async with service.running("license", build, handlers, world.running.settings("license")) as one:
        async with asyncio.timeout(10):
            await one.ready.wait()
        yield one.service


@pytest.fixture
async def serving(world: World) -> AsyncIterator[tuple[World, list[service.Call]]]:
    """The service, ready."""
    async with ready(world) as calls:
        yield world, calls


# The seam


async def test_a_permitted_call_reaches_its_handler_once(serving: tuple[World, list[service.Call]]) -> None:
    """With a permit for these bytes and now; the same permit again is a replay."""
    world, calls = serving
    token = world.permitted()
    assert (await world.ask(b"{}", token)).code is Code.NOT_FOUND
    (call,) = calls
    assert (call.bound.permit.owner_id, call.bound.parameters, call.body) == ("root", b"{}", b"{}")
    assert (await world.ask(b"{}", token)).code is Code.PERMIT_REPLAYED
    assert len(calls) == 1


async def test_many_at_once_with_one_permit_are_one_call(serving: tuple[World, list[service.Call]]) -> None:
    """A race of replays: exactly one gets in."""
    world, calls = serving
    token = world.permitted()
    refused = await asyncio.gather(*(world.ask(b"{}", token) for _ in range(10)))
    assert sorted(one.code for one in refused) == [Code.NOT_FOUND, *[Code.PERMIT_REPLAYED] * 9]
    assert len(calls) == 1


async def test_a_permit_that_was_used_before_a_restart_is_no_good_after_it(world: World) -> None:
    """The new process can't know what the old one took, so it takes nothing of that time; who asks the gate again is let in at once."""
    async with ready(world) as calls:
        used, unused = world.permitted(), world.permitted()
        assert (await world.ask(b"{}", used)).code is Code.NOT_FOUND
        assert len(calls) == 1
    async with ready(world) as calls:
        for old in (used, unused):
            refused = await world.ask(b"{}", old)
            assert (refused.code, refused.detail) == (Code.UNAVAILABLE, {"outcome": "none"})
        assert (await world.ask(b"{}", world.permitted())).code is Code.NOT_FOUND
        assert len(calls) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signer": signing.Ed25519Signer.generate()}, Code.PERMIT_INVALID),
        ({"runtime_id": ids.new()}, Code.PERMIT_INVALID),
        ({"tenant": "other"}, Code.PERMIT_INVALID),
        ({"not_after_ms": 1}, Code.PERMIT_EXPIRED),
        ({"not_after_ms": 2**50}, Code.PERMIT_INVALID),
        ({"service": "knowledge"}, Code.PERMIT_MISMATCH),
        ({"command": "license/revoke"}, Code.PERMIT_MISMATCH),
        ({"digest": "0" * 64}, Code.PERMIT_MISMATCH),
    ],
)
async def test_another_permit_opens_nothing(
    serving: tuple[World, list[service.Call]], changes: dict[str, Any], code: Code
) -> None:
    """Forged, for another deployment, expired, immortal, for another service, command or body."""
    world, calls = serving
    signer = changes.pop("signer", world.ledger.services["gatekeeper"])
    world.ledger.clock.ms = clock.SystemClock().now_ms()
    granted = msgspec.structs.replace(world.ledger.granted(world.ledger.root, NOTED.name), **changes)
    assert (await world.ask(b"{}", permit.seal(signer, granted))).code is code
    assert calls == []


async def test_no_permit_opens_nothing(serving: tuple[World, list[service.Call]]) -> None:
    """Missing, empty, or no token at all."""
    world, calls = serving
    assert (await world.ask(b"{}", None)).code is Code.PERMIT_MISSING
    assert (await world.ask(b"{}", "")).code is Code.PERMIT_MISSING
    assert (await world.ask(b"{}", "a.b")).code is Code.PERMIT_INVALID
    assert calls == []


async def test_one_changed_byte_is_another_call(serving: tuple[World, list[service.Call]]) -> None:
    """A permit is for the very bytes, even where the JSON means the same."""
    world, calls = serving
    assert (await world.ask(b"{ }", world.permitted(b"{}"))).code is Code.PERMIT_MISMATCH
    assert calls == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"limit": "ten"}', "$.limit"),
        (b'{"limit": 0}', "$.limit"),
        (b'{"surprise": 1}', "$"),
        (b"[]", "$"),
        (b"not json", "$"),
        (b'{"limit": 1, "limit": 2}', "$"),
        (b'{"limit": NaN}', "$"),
    ],
)
async def test_a_body_that_does_not_fit_names_its_field(
    serving: tuple[World, list[service.Call]], body: bytes, field: str
) -> None:
    """BAD_INPUT with the JSON path, before the handler, and only to who was permitted."""
    world, calls = serving
    refused = await world.ask(body, world.permitted(body))
    assert refused.code is Code.BAD_INPUT
    assert refused.field is not None
    assert refused.field.startswith(field)
    assert calls == []


async def test_an_open_command_needs_no_permit(serving: tuple[World, list[service.Call]]) -> None:
    """What the request carries admits it; a permit that came along is not looked at."""
    world, calls = serving
    assert licence_contract.VALIDATE.admission is Admission.OPEN
    body = json.dumps({"toml": "x"}).encode()
    refused = await world.ask(body, "nonsense", licence_contract.VALIDATE)
    assert refused.code in {Code.NOT_FOUND, Code.BAD_INPUT}
    assert all(call.permitted is None for call in calls)


def test_replays_are_remembered_for_as_long_as_they_could_work() -> None:
    """Not longer, so the memory is bounded by time; and a clock that goes back lets nothing in again."""
    memory = OnceOnly(window_ms=5_000, limit=9, started_ms=0)
    assert memory.use("a", 0, 0) is Use.FRESH
    assert memory.use("a", 0, 5_000) is Use.USED
    assert memory.use("b", 4_000, 6_000) is Use.FRESH
    assert memory.use("late", 999, 6_000) is Use.STALE
    assert memory.use("c", 24_000, 20_000) is Use.FRESH
    assert len(memory) == 1
    assert memory.use("c", 24_000, 19_000) is Use.USED
    assert memory.use("b", 4_000, 6_000) is Use.STALE


class Overheard:
    """A bus that keeps what is asked of the gate, and refuses it."""

    def __init__(self) -> None:
        """Nothing was asked."""
        self.asked: list[Any] = []

    async def call(self, command: Any, request: Any, **_: Any) -> Any:
        """Keep it."""
        self.asked.append((command.name, request.parent))
        raise Refused(Code.NOT_FOUND, "heard")


async def test_what_a_handler_left_running_asks_for_nobody(world: World) -> None:
    """On a caller's behalf is asked while the handler runs, and not once it has answered, well within its permit's time."""
    bus = Overheard()

    @contextlib.asynccontextmanager
    async def build(parts: service.Parts) -> AsyncIterator[behalf.Behalf]:
        yield behalf.Behalf(bus, parts.resident, parts.answering)  # type: ignore[arg-type]

    left: list[asyncio.Task[Any]] = []
    answered = asyncio.Event()

    async def leaves(asks: behalf.Behalf, request: Any, call: service.Call) -> msgspec.Struct:
        async def later() -> None:
            await answered.wait()
            await asks.call(call.bound, canon.GET, canon.Get(seq=1))

        left.append(asyncio.create_task(later()))
        return await asks.call(call.bound, canon.GET, canon.Get(seq=1))

    async with service.running("license", build, {NOTED: leaves}, world.running.settings("license")) as one:
        async with asyncio.timeout(10):
            await one.ready.wait()
        token = world.permitted()
        assert (await world.ask(b"{}", token)).code is Code.NOT_FOUND
        answered.set()
        with pytest.raises(Refused) as caught:
            await left[0]
        assert caught.value.code is Code.PERMIT_EXPIRED
        assert bus.asked == [("authorize/child", token)]


# Life


async def test_before_genesis_only_bootstrap_is_answered(tmp_path: Path) -> None:
    """Everything else says NOT_BOOTSTRAPPED, without a permit; after genesis the service becomes ready by itself."""
    async with canon_on_bus(tmp_path / "house") as (running, canon):
        world = World(running, canon)
        handlers: service.Handlers[list[service.Call]] = {NOTED: remember, licence_contract.BOOTSTRAP: remember}
        async with service.running("license", build, handlers, running.settings("license")) as one:
            assert (await world.ask(b"{}", None)).code is Code.NOT_BOOTSTRAPPED
            refused = await world.ask(b'{"unknown":1}', None, licence_contract.BOOTSTRAP)
            assert refused.code is Code.BAD_INPUT
            assert one.answering is not None
            assert one.answering.state == "waiting for genesis"
            canon.ledger.found()
            await canon.publish()
            async with asyncio.timeout(10):
                await one.ready.wait()
            assert (await world.ask(b"{}", None)).code is Code.PERMIT_MISSING
            pinned = (one.parts.state_dir / "genesis").read_text().strip()
            assert pinned == canon.ledger.state.genesis_hash


async def test_who_has_seen_genesis_before_is_starting(tmp_path: Path) -> None:
    """After a restart the canon can't be read yet: that passes, which NOT_BOOTSTRAPPED wouldn't say."""
    async with canon_on_bus(tmp_path / "house") as (running, canon):
        options = running.settings("license")
        options.service.state_dir.mkdir(mode=0o700, parents=True)
        private_files.write_new(options.service.state_dir / "genesis", b"0" * 64 + b"\n")
        async with service.running("license", build, {NOTED: remember}, options):
            assert (await World(running, canon).ask(b"{}", None)).code is Code.UNAVAILABLE


async def test_another_genesis_ends_the_process(world: World) -> None:
    """An emptied canon that was founded anew isn't served."""
    options = world.running.settings("license")
    async with service.running("license", build, {}, options) as one:
        async with asyncio.timeout(10):
            await one.ready.wait()
        pin = one.parts.state_dir / "genesis"
    pin.write_text("0" * 64 + "\n")
    async with service.running("license", build, {}, options) as one:
        async with asyncio.timeout(10):
            await one.ended.wait()
        assert "genesis" in str(one.failed)
        assert not one.ready.is_set()


async def test_knowledge_has_no_ear_for_another_s_command(serving: tuple[World, list[service.Call]]) -> None:
    """A permit for memory/write is nothing at the license service."""
    world, calls = serving
    person = world.ledger.issue(simulator.Person("someone"), Loa.OPERATOR)
    world.ledger.clock.ms = clock.SystemClock().now_ms()
    granted = world.ledger.granted(person, "memory/write")
    assert granted.service == knowledge.SERVICE
    token = permit.seal(world.ledger.services["gatekeeper"], granted)
    assert (await world.ask(b"{}", token)).code is Code.PERMIT_MISMATCH
    assert calls == []


# The process


PROGRAM = """
import contextlib
from sigilcore.contracts import license
from sigilcore.refusals import Code, Refused
from sigilrun import service

@contextlib.asynccontextmanager
async def build(parts):
    yield parts

async def listed(parts, request, call):
    raise Refused(Code.NOT_FOUND, "here")

service.run("license", build, {license.LIST: listed})
"""


def config(world: World) -> Path:
    """A config.toml as an operator writes it."""
    path = world.running.folder / "config.toml"
    seed = identities.seed_file(world.running.seeds, "license")
    path.write_text(
        textwrap.dedent(f"""
        [bus]
        url = "{world.running.url}"
        nkey_seed_file = "{seed}"
        [deployment]
        file = "deployment.json"
        [service]
        state_dir = "services/process"
        instance = "process"
        [keystore]
        path = "keystore"
        passphrase_file = "passphrase"
        """)
    )
    return path


async def start(world: World, **env: str) -> asyncio.subprocess.Process:
    """The program, as its own process."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env={"SIGIL_CONFIG": str(config(world)), "PATH": "/usr/bin:/bin", **env},
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_process_serves_until_sigterm_and_exits_0(world: World) -> None:
    """Ready line, calls answered, then the closing beat and an orderly end; every log line is JSON."""
    process = await start(world)
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while not lines or lines[-1]["event"] != "ready":
            lines.append(json.loads(await process.stderr.readline()))
    assert (await world.ask(b"{}", world.permitted())).code is Code.NOT_FOUND
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        rest = (await process.stderr.read()).decode().splitlines()
        assert await process.wait() == 0
    lines += [json.loads(line) for line in rest]
    assert lines[-1]["event"] == "stopped"
    assert all(line["service"] == "license" for line in lines)
    last = record_kinds(world)[-1]
    assert last == "instance_beat"


async def test_a_process_that_finds_no_bus_can_be_stopped(world: World) -> None:
    """SIGTERM while it still looks for the bus ends it at once, with 0."""
    process = await start(world, SIGIL_BUS_URL="nats://127.0.0.1:1", SIGIL_TELEMETRY_LEVEL="debug")
    assert process.stderr is not None
    async with asyncio.timeout(20):
        await process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        await process.stderr.read()
        assert await process.wait() == 0


async def test_bad_settings_are_told_all_at_once_and_exit_2(world: World) -> None:
    """Before anything is touched."""
    process = await start(world, SIGIL_BUS_MAX_IN_FLIGHT="no", SIGIL_SERVICE_INSTANCE="A B")
    assert process.stderr is not None
    async with asyncio.timeout(20):
        told = (await process.stderr.read()).decode()
        assert await process.wait() == 2
    assert "SIGIL_BUS_MAX_IN_FLIGHT" in told
    assert "SIGIL_SERVICE_INSTANCE" in told


def record_kinds(world: World) -> list[str]:
    """The ledger's kinds, in order."""
    return [world.ledger.by_id[one].core.kind for one in world.ledger.by_id]
