"""Every face refuses alike: the same matrix as the gate's own, asked of a real gate over the bus, over HTTP and by `sigil call`, and read
from its list.

What is allowed needs no effect here: it is enough that the gate let it through, and most services that would answer aren't there.
"""

import asyncio
import contextlib
import io
import json
import secrets
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from cli import caller, main, profiles
from sigilcore import canonical, clock, session, signing
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper
from sigilcore.contracts.common import Empty
from sigilcore.refusals import Code, Refused
from sigilrun import http
from sigilrun.bus import Bus
from sigilrun.faces import examples
from sigilrun.faces.routes import PREFIX, ROUTES
from tests.faults import bad_input
from tests.levels import LADDER, PERMITTED, refusal
from tests.services.gateway_world import Face, World, bearer, world
from tests.simulator import Person

CALLERS = {
    "guest": ("guest", "bearer"),
    "observer": ("observer", "bearer"),
    "operator": ("operator", "bearer"),
    "operator with a key": ("operator", "session"),
    "operator's stolen token": ("operator", "token"),
    "mentor": ("mentor", "session"),
    "root by its session": ("root", "session"),
    "root itself": ("root", "owner"),
}
GATES = {
    Code.LICENSE_INVALID,
    Code.LOA_TOO_LOW,
    Code.OUT_OF_SCOPE,
    Code.PROOF_MISSING,
    Code.PROOF_INVALID,
    Code.OWNER_PROOF_NEEDED,
    Code.DENIED_BY_TRUST,
    Code.GATE_FAULT,
}
NEVER_ASKED = {
    Code.BAD_INPUT,
    Code.SESSION_MISSING,
    Code.RATE_LIMITED,
    Code.METHOD_NOT_ALLOWED,
}  # the gate said nothing
OWN = [route for route in ROUTES if route.command in PERMITTED and not route.page and not route.path.startswith(PREFIX)]


class Speaker:
    """Somebody with an open session, who speaks in one way."""

    def __init__(self, name: str, person: Person) -> None:
        self.level, self.way = CALLERS[name]
        self.person = person
        self.seed = secrets.token_bytes(32)
        self.key = None if self.way == "bearer" else signing.Ed25519Signer(self.seed)
        self.view: gatekeeper.SessionView

    async def login(self, home: World, bus: Bus) -> None:
        challenge = await bus.call(gatekeeper.CHALLENGE, Empty())
        home.ledger.clock.ms = clock.SystemClock().now_ms()
        certificate = None if self.key is None else home.ledger.certificate(self.person, self.key, challenge)
        asked = gatekeeper.OpenSession(
            license=self.person.toml,
            nonce=challenge.nonce,
            session_key=None if self.key is None else self.key.public_key.hex(),
            certificate=certificate,
        )
        self.view = await bus.call(gatekeeper.OPEN, asked)

    def proof(self, command: str, body: bytes) -> str | None:
        if self.key is None or self.way == "token":
            return None
        owner = self.way == "owner"
        return session.prove(
            self.person.signer if owner else self.key,
            session_id=self.view.session_id,
            command=command,
            parameters=body,
            time_ms=clock.SystemClock().now_ms(),
            nonce=secrets.token_hex(16),
            by="owner" if owner else "session",
        )

    def expects(self, command) -> Code | None:
        """The table's word; who calls is asked before what."""
        return Code.PROOF_MISSING if self.way == "token" else refusal(command, self.level, self.way)


@pytest.fixture(scope="module", name="home")
async def _home(tmp_path_factory) -> AsyncIterator[World]:
    """A house whose gate records no denials, so that what one test was refused costs nobody's standing in the next."""
    async with world(tmp_path_factory.mktemp("faces") / "house") as one:
        desk = one.gate.service.desk
        desk._limits = msgspec.structs.replace(desk._limits, recorded_denials=0, calls_per_minute=10**6)
        one.slow.set()
        yield one


@pytest.fixture(scope="module", name="bus")
async def _bus(home: World) -> Bus:
    """The gateway's own identity on the bus."""
    return await home.running.bus("gateway")


@pytest.fixture(scope="module", name="speakers")
async def _speakers(home: World, bus: Bus) -> dict[str, Speaker]:
    """One speaker for each way and level."""
    ledger, found = home.ledger, {}
    for number, (name, (level, way)) in enumerate(CALLERS.items()):
        root = level == "root"
        person = ledger.root if root else ledger.issue(Person(f"p{number}", keyed=way != "bearer"), Loa(level))
        found[name] = Speaker(name, person)
    await home.canon.publish()
    for speaker in found.values():
        await speaker.login(home, bus)
    return found


@pytest.fixture(scope="module", name="face")
async def _face(home: World) -> AsyncIterator[Face]:
    """One gateway."""
    async with home.gateway() as one:
        yield one


def test_the_callers_stand_on_every_rung():
    """No level is left out."""
    assert {level for level, _ in CALLERS.values()} == set(LADDER)


@pytest.mark.parametrize("name", CALLERS)
async def test_on_the_bus(bus: Bus, speakers: dict[str, Speaker], name: str) -> None:
    """`authorize` for every command: a permit, or exactly the table's refusal."""
    speaker, body = speakers[name], b"{}"
    for command in PERMITTED:
        asked = gatekeeper.Authorize(
            session=speaker.view.token,
            proof=speaker.proof(command.name, body),
            command=command.name,
            parameters=body.decode(),
        )
        try:
            said = None if (await bus.call(gatekeeper.AUTHORIZE, asked)).permit else Code.GATE_FAULT
        except Refused as refused:
            said = refused.code
        assert said is speaker.expects(command), command.name


async def over_http(face: Face, speaker: Speaker, command, method: str, target: str, values: dict) -> Code | None:
    """What HTTP answers to a request that fits; what came from behind the gate is None."""
    body = canonical.encode(values)
    answer = await face.send(
        method,
        target,
        body if method == "POST" else None,
        authorization=bearer(speaker.view.token),
        sigil_proof=speaker.proof(command.name, body),
    )
    if answer.status < 400:
        return None
    told = http.problem(answer.status, answer.body)
    if not isinstance(told, Refused):
        return None
    assert told.code not in NEVER_ASKED, (target, told)
    assert answer.status == told.code.status
    return told.code if told.code in GATES else None


@pytest.mark.parametrize("name", CALLERS)
async def test_over_http(face: Face, speakers: dict[str, Speaker], name: str) -> None:
    """`POST /api/commands/<name>` for every command."""
    for command in PERMITTED:
        said = await over_http(face, speakers[name], command, "POST", PREFIX + command.name, examples.request(command))
        assert said is speakers[name].expects(command), command.name


@pytest.mark.parametrize("name", CALLERS)
async def test_over_a_command_s_own_route(face: Face, speakers: dict[str, Speaker], name: str) -> None:
    """The route that a command has beside the general one is no other door."""
    for route in OWN:
        values = bad_input.good(route)
        target = bad_input.target_of(route, values)
        said = await over_http(face, speakers[name], route.command, route.method, target, values)
        assert said is speakers[name].expects(route.command), route.path


def profile_of(name: str, speaker: Speaker, face: Face) -> str:
    """A profile on disk in which this speaker's session is open; of a stolen token the thief has no key."""
    kept = profiles.Profile(name.replace(" ", "-").replace("'", ""))
    view = speaker.view
    opened = http.Session(
        token=view.token,
        session_id=view.session_id,
        owner_id=view.owner_id,
        owner_name=view.owner_name,
        loa=view.loa,
        not_after_ms=view.not_after_ms,
        genesis_hash="0" * 64,
        runtime_id="0" * 36,
        key=None if speaker.way in ("bearer", "token") else speaker.seed.hex(),
    )
    kept.keep(about=profiles.About(address=face.address), session=opened)
    return kept.name


def sigil(*words: str) -> tuple[int, dict[str, Any]]:
    """The command in this process: its exit code, and the error that it tells."""
    before, sys.argv = sys.argv, ["sigil", *words]
    said, told = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told), pytest.raises(SystemExit) as ended:
            main.main()
    finally:
        sys.argv = before
    code = int(ended.value.code or 0)
    return code, {} if code == 0 else json.loads(told.getvalue().splitlines()[-1])


@pytest.mark.parametrize("name", CALLERS)
async def test_on_the_command_line(
    face: Face, speakers: dict[str, Speaker], name: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sigil call` for every command: the same refusal, with exit code 1; what passed the gate ends as docs/CLI.md says it does."""
    speaker = speakers[name]
    monkeypatch.setenv("SIGIL_HOME", str(tmp_path))
    monkeypatch.setattr(caller, "signer", lambda *_: speaker.person.signer)  # a key file takes its time to open
    options = ("--json", "--profile", profile_of(name, speaker, face))
    options += ("--key", "owner.key") if speaker.way == "owner" else ()
    for command in PERMITTED:
        words = ("call", *options, command.name, json.dumps(examples.request(command)))
        code, told = await asyncio.to_thread(sigil, *words)
        refused = told.get("code") if told.get("code") in Code.__members__ else None
        assert code == (0 if not told else 1 if refused else 3), (command.name, told)
        assert refused not in NEVER_ASKED, (command.name, told)
        assert (refused if refused in GATES else None) == speaker.expects(command), (command.name, told)


@pytest.mark.parametrize("name", [name for name, (_, way) in CALLERS.items() if way != "token"])
async def test_in_the_list(bus: Bus, speakers: dict[str, Speaker], name: str) -> None:
    """`commands/list`, which command line and agents show: a command is listed exactly if the gate lets its owner's own word through."""
    speaker, body = speakers[name], b"{}"
    asked = gatekeeper.Authorize(
        session=speaker.view.token,
        proof=speaker.proof("commands/list", body),
        command="commands/list",
        parameters="{}",
    )
    permit = (await bus.call(gatekeeper.AUTHORIZE, asked)).permit
    listed = await bus.call(gatekeeper.COMMAND_LIST, body, permit=permit)
    own_word = "bearer" if speaker.way == "bearer" else "owner"
    admitted = {command.name for command in PERMITTED if refusal(command, speaker.level, own_word) is None}
    assert {view.name for view in listed.items} == admitted
    assert all(view.needs_owner == (refusal_by_session(view.name, speaker) is not None) for view in listed.items)


def refusal_by_session(name: str, speaker: Speaker) -> Code | None:
    """Why the session's key alone isn't enough, if it isn't."""
    command = next(one for one in PERMITTED if one.name == name)
    return refusal(command, speaker.level, "bearer" if speaker.way == "bearer" else "session")
