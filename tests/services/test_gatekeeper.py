"""The gatekeeper, asked as its callers ask it, over a log in memory that admits records as the writer does."""

import asyncio
import contextlib
import os
import secrets
import types
from typing import Any

import msgspec
import pytest

from services.gatekeeper import rules
from services.gatekeeper.limits import Limits
from services.gatekeeper.rates import LastMinute
from services.gatekeeper.service import HANDLERS, Gatekeeper
from sigilcore import (
    access,
    admission,
    clock,
    decision,
    envelope,
    gate,
    ids,
    licence,
    permit,
    record,
    session,
    signing,
    standing,
    trust,
)
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue, common
from sigilcore.contracts import gatekeeper as contract
from sigilcore.contracts.command import Admission
from sigilcore.contracts.common import Empty
from sigilcore.decision import Verdict
from sigilcore.governance import Governance
from sigilcore.records import audit, system
from sigilcore.refusals import Code, Refused
from sigilrun import replay
from sigilrun import service as run
from tests import oracle, simulator
from tests.simulator import NOW_MS, Person

WRITE = '{"key":"greeting","text":"Good morning."}'


class MemoryLog:
    """The canon in a list: real records, admitted by the writer's rules; what the gate sees of it can be held back."""

    def __init__(self, world: simulator.House) -> None:
        self.world = world
        self.seen = Governance()
        self.position = 0
        self.behind = False
        self.broken: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.on_its_way: list[Any] = []  # what an author goes on with after its caller gave up

    @property
    def state(self) -> Governance:
        if not self.behind:
            self.follow()
        return self.seen

    @property
    def key_id(self) -> str:
        return self.world.instances["gatekeeper"].key_id

    def follow(self) -> None:
        for signed in self.world.log[self.position :]:
            checked = record.check(signed)
            admission.admit_governing(self.seen, checked)
            self.seen.apply(self.position, checked)
            self.position += 1

    async def record(
        self, kind: str, payload: msgspec.Struct, decided: decision.DecisionRef | None = None
    ) -> common.Placed:
        if self.gate is not None:
            await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        links = () if decided is None else (record.Link(label="decision", target=decided.link()),)
        checked = self.world.append(kind, payload, self.world.instances["gatekeeper"], links=links)
        return common.Placed(id=checked.core.id, hash=checked.header.hash, seq=len(self.world.log) - 1)

    async def settled(self) -> None:
        while self.on_its_way:
            self.on_its_way.pop(0)()

    async def history(self, first: int, limit: int) -> canon.EventPage:
        found = [
            placed
            for placed in self.world.placed()[first:]
            if msgspec.json.decode(placed.header)["core"]["kind"] in audit.OF_DECISIONS
        ][:limit]
        head = len(self.world.log)
        return canon.EventPage(items=tuple(found), head=head, next=found[-1].seq + 1 if len(found) == limit else head)

    async def reach_head(self) -> None:
        self.follow()

    def payloads(self, kind: str) -> list[Any]:
        checked = (record.check(signed) for signed in self.world.log)
        return [one.payload for one in checked if one.core.kind == kind]

    def judged(self, command: str) -> list[decision.ReasoningChain]:
        batches = self.payloads("decision_batch")
        return [one.chain for batch in batches for one in batch.decisions if one.chain.command == command]


class Client:
    """A caller with an open session."""

    def __init__(self, person: Person, key: signing.Ed25519Signer | None, view: contract.SessionView) -> None:
        self.person = person
        self.key = key
        self.view = view

    def proof(self, command: str, body: str, now_ms: int, *, owner: bool = False, signer: Any = None) -> str:
        assert self.key is not None
        return session.prove(
            signer or (self.person.signer if owner else self.key),
            session_id=self.view.session_id,
            command=command,
            parameters=body.encode(),
            time_ms=now_ms,
            nonce=secrets.token_hex(16),
            by="owner" if owner else "session",
        )


class House:
    """Simulator, log and gatekeeper together."""

    def __init__(self, **limits: Any) -> None:
        self.world = simulator.House()
        self.log = MemoryLog(self.world)
        self.gate = self.another(**limits)
        self.ada = self.world.issue(Person("ada"), Loa.OPERATOR)
        self.bob = self.world.issue(Person("bob", keyed=False), Loa.OPERATOR)
        self.world.clock.advance(1)

    def another(self, **limits: Any) -> Gatekeeper:
        """A gatekeeper on the same log that remembers nothing yet."""
        signer = self.world.services["gatekeeper"]
        return Gatekeeper(limits=Limits(**limits), clock=self.world.clock, signer=signer, log=self.log)

    async def ask(self, command: Any, request: Any, *, gate: Gatekeeper | None = None, call: Any = None) -> Any:
        return await HANDLERS[command](gate or self.gate, request, call)

    async def challenge(self) -> contract.Challenge:
        return await self.ask(contract.CHALLENGE, Empty())

    async def login(self, person: Person, **certificate: Any) -> Client:
        challenge = await self.challenge()
        key = signing.Ed25519Signer.generate() if person.keyed else None
        request = contract.OpenSession(
            license=person.toml,
            nonce=challenge.nonce,
            session_key=None if key is None else key.public_key.hex(),
            certificate=None if key is None else self.world.certificate(person, key, challenge, **certificate),
        )
        return Client(person, key, await self.ask(contract.OPEN, request))

    def request(self, client: Client, command: str, body: str = "{}", **changes: Any) -> contract.Authorize:
        owner = changes.pop("owner", False)
        proof = None if client.key is None else client.proof(command, body, self.world.now_ms, owner=owner)
        fields = {"session": client.view.token, "proof": proof, "command": command, "parameters": body}
        return contract.Authorize(**(fields | changes))

    async def authorize(self, client: Client, command: str, body: str = "{}", **changes: Any) -> contract.Authorized:
        return await self.ask(contract.AUTHORIZE, self.request(client, command, body, **changes))

    def bound(self, answer: contract.Authorized, command: str, body: str = "{}") -> permit.Bound:
        """What the service that answers the command makes of the permit."""
        return permit.check(
            answer.permit,
            body.encode(),
            gatekeeper_key=self.log.state.service_key("gatekeeper") or b"",
            runtime_id=self.log.state.runtime_id,
            tenant=self.log.state.tenant,
            service=catalogue.COMMANDS[command].service,
            command=command,
            now_ms=self.world.now_ms,
        )

    async def call(self, client: Client, command: Any, request: Any) -> Any:
        """Authorize, then ask the gatekeeper's own command with the permit."""
        body = msgspec.json.encode(request)
        answer = await self.authorize(client, command.name, body.decode())
        bound = self.bound(answer, command.name, body.decode())
        call = run.Call(command=command, body=body, trace_id="0" * 32, deadline_ms=None, permitted=bound)
        return await self.ask(command, request, call=call)


@pytest.fixture
def house() -> House:
    return House()


@contextlib.contextmanager
def refused(code: Code):
    with pytest.raises(Refused) as caught:
        yield caught
    assert caught.value.code is code, caught.value


def counted(house: House) -> dict[str, int]:
    summary = house.gate.refusals.take(house.world.now_ms)
    return {} if summary is None else summary.counts


# An ordinary day


async def test_a_proven_call_gets_a_permit_that_stands_on_a_record(house):
    """Login, proof, decision in the log, permit for exactly these bytes."""
    ada = await house.login(house.ada)
    answer = await house.authorize(ada, "memory/write", WRITE)
    bound = house.bound(answer, "memory/write", WRITE)
    row = house.world.rows[answer.decision.record, answer.decision.index]
    assert (row.command, row.owner, row.digest) == ("memory/write", "ada", bound.permit.digest)
    assert (bound.permit.proof, bound.permit.loa, answer.verdict) == ("session", Loa.OPERATOR, Verdict.ALLOW)


async def test_a_login_and_a_logout_are_records(house):
    """Both ends of a session stand in the log, with the session's key."""
    ada = await house.login(house.ada)
    await house.ask(contract.CLOSE, closing(house, ada))
    opened, closed = house.log.payloads("session_opened"), house.log.payloads("session_closed")
    assert [(o.session_id, o.key) for o in opened] == [(ada.view.session_id, ada.key.public_key.hex())]
    assert [c.session_id for c in closed] == [ada.view.session_id]


def closing(house: House, client: Client) -> contract.SessionCall:
    proof = None if client.key is None else client.proof("session/close", "{}", house.world.now_ms)
    return contract.SessionCall(session=client.view.token, proof=proof)


async def test_a_bearer_session_says_that_it_is_one(house):
    """Who holds the token is the caller, and every answer says so."""
    bob = await house.login(house.bob)
    answer = await house.authorize(bob, "memory/write", WRITE)
    assert bob.view.bearer
    assert house.bound(answer, "memory/write", WRITE).permit.proof == "bearer"


async def test_a_named_id_binds_the_effect(house):
    """The id that the caller chose for its record is in the decision."""
    wanted = ids.new()
    answer = await house.authorize(
        await house.login(house.ada), "memory/write", f'{{"key":"a","text":"b","id":"{wanted}"}}'
    )
    assert house.world.rows[answer.decision.record, answer.decision.index].effect == wanted


# Attacks on a call


async def test_session_token_without_proof(house):
    """Who stole a token of a key-bound session holds nothing."""
    ada = await house.login(house.ada)
    with refused(Code.PROOF_MISSING):
        await house.authorize(ada, "memory/write", WRITE, proof=None)
    assert house.log.judged("memory/write") == []
    assert counted(house) == {"PROOF_MISSING": 1}


async def test_proof_for_other_parameters(house):
    """A gateway can't change what the caller signed."""
    ada = await house.login(house.ada)
    honest = house.request(ada, "memory/write", WRITE)
    with refused(Code.PROOF_INVALID):
        await house.ask(contract.AUTHORIZE, msgspec.structs.replace(honest, parameters=WRITE.replace("Good", "Bad")))


async def test_proof_for_another_command_or_session(house):
    """A signature for one thing is none for another."""
    ada, other = await house.login(house.ada), await house.login(house.ada)
    honest = house.request(ada, "memory/list")
    with refused(Code.PROOF_INVALID):
        await house.ask(contract.AUTHORIZE, msgspec.structs.replace(honest, command="memory/read"))
    with refused(Code.PROOF_INVALID):
        await house.ask(contract.AUTHORIZE, msgspec.structs.replace(honest, session=other.view.token))


async def test_proof_for_another_session_of_the_same_key(house):
    """Two sessions may have one key; a proof still names one of them."""
    ada = await house.login(house.ada)
    twin = forged(house, licence_id=house.ada.licence_id, owner_id="ada", session_key=ada.key.public_key.hex())
    with refused(Code.PROOF_INVALID):
        await house.authorize(ada, "ping", session=twin)


async def test_proof_by_a_stranger_or_under_another_name(house):
    """Only the session's key speaks for the session, and it can't call itself the owner's."""
    ada = await house.login(house.ada)
    stranger = signing.Ed25519Signer.generate()
    with refused(Code.PROOF_INVALID):
        await house.authorize(ada, "ping", proof=ada.proof("ping", "{}", house.world.now_ms, signer=stranger))
    with refused(Code.PROOF_INVALID):
        own = ada.proof("ping", "{}", house.world.now_ms, owner=True, signer=ada.key)
        await house.authorize(ada, "ping", proof=own)


async def test_replayed_proof(house):
    """One signature, one call, for reads too."""
    ada = await house.login(house.ada)
    request = house.request(ada, "memory/list")
    await house.ask(contract.AUTHORIZE, request)
    with refused(Code.PROOF_REPLAYED):
        await house.ask(contract.AUTHORIZE, request)


async def test_replayed_proofs_cost_their_owner_nothing(house):
    """An eavesdropper can't use up a caller's rate by repeating what it heard."""
    ada = await house.login(house.ada)
    request = house.request(ada, "memory/list")
    await house.ask(contract.AUTHORIZE, request)
    for _ in range(5):
        with refused(Code.PROOF_REPLAYED):
            await house.ask(contract.AUTHORIZE, request)
    assert house.gate.desk.calls_last_minute(house.ada.licence_id) == 1


@pytest.mark.parametrize("off_ms", [-30_001, 30_001])
async def test_stale_proof(house, off_ms):
    """A proof is for now, give or take thirty seconds."""
    house.world.clock.advance(60_000)
    ada = await house.login(house.ada)
    with refused(Code.PROOF_STALE):
        await house.authorize(ada, "ping", proof=ada.proof("ping", "{}", house.world.now_ms + off_ms))


async def test_proof_heard_before_a_restart(house):
    """A gate that begins to remember believes nothing signed before."""
    ada = await house.login(house.ada)
    request = house.request(ada, "memory/write", WRITE)
    await house.ask(contract.AUTHORIZE, request)
    house.world.clock.advance(1)
    with refused(Code.PROOF_STALE):
        await house.ask(contract.AUTHORIZE, request, gate=house.another())


async def test_proof_after_the_clock_was_set_back(house):
    """What was forgotten stays refused, whatever the clock says later."""
    ada = await house.login(house.ada)
    request = house.request(ada, "memory/list")
    await house.ask(contract.AUTHORIZE, request)
    house.world.clock.advance(61_000)
    await house.authorize(ada, "memory/list")
    house.world.clock.advance(-61_000)
    with refused(Code.PROOF_STALE):
        await house.ask(contract.AUTHORIZE, request)


async def test_bearer_token_for_a_mentor_mutation(house):
    """A bearer reaches operator at most, and has no owner who could vouch."""
    bob = await house.login(house.bob)
    with refused(Code.LOA_TOO_LOW) as caught:
        await house.authorize(bob, "license/create")
    assert caught.value.detail["need"] == "root"
    with refused(Code.PROOF_INVALID):
        await house.authorize(bob, "license/create", proof="anything")


async def test_session_key_for_a_root_mutation(house):
    """A session key alone revokes nobody; the owner's own proof does."""
    root = await house.login(house.world.root)
    with refused(Code.OWNER_PROOF_NEEDED):
        await house.authorize(root, "license/revoke")
    answer = await house.authorize(root, "license/revoke", owner=True)
    assert house.bound(answer, "license/revoke").permit.proof == "owner"


async def test_certificate_names_mutations_for_their_minutes_only(house):
    """Named commands pass for fifteen minutes, others never, and then none."""
    end_ms = house.world.now_ms + session.CERTIFICATE_MS
    root = await house.login(house.world.root, mutations=("license/revoke",), mutations_not_after_ms=end_ms)
    assert (await house.authorize(root, "license/revoke")).verdict is Verdict.ALLOW
    with refused(Code.OWNER_PROOF_NEEDED):
        await house.authorize(root, "license/create")
    house.world.clock.advance(session.CERTIFICATE_MS)
    with refused(Code.OWNER_PROOF_NEEDED):
        await house.authorize(root, "license/revoke")


async def test_a_mutation_that_a_policy_raised_needs_the_owner_too(house):
    """One running gate: a mentor's session writes, then the policy raises it, and only the owner's word will do; the list says so."""
    end_ms = house.world.now_ms + session.CERTIFICATE_MS
    person = house.world.issue(Person("mia"), Loa.MENTOR)
    mia = await house.login(person)
    named = await house.login(person, mutations=("memory/write",), mutations_not_after_ms=end_ms)
    await house.authorize(mia, "memory/write", WRITE)
    house.world.change_policy(rungs={"memory/write": Loa.MENTOR})
    with refused(Code.OWNER_PROOF_NEEDED) as caught:
        await house.authorize(mia, "memory/write", WRITE)
    assert "decision" in caught.value.detail
    assert house.bound(await house.authorize(mia, "memory/write", WRITE, owner=True), "memory/write", WRITE)
    await house.authorize(named, "memory/write", WRITE)
    listed = await house.call(mia, contract.COMMAND_LIST, Empty())
    assert [view.needs_owner for view in listed.items if view.name == "memory/write"] == [True]
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


async def test_revoked_licence_in_a_warm_cache(house):
    """Token verified, read shared, and the next call still feels the revocation."""
    ada = await house.login(house.ada)
    await house.authorize(ada, "memory/list")
    house.world.revoke(house.ada)
    with refused(Code.LICENSE_INVALID) as caught:
        await house.authorize(ada, "memory/list")
    assert caught.value.detail["reasons"] == ["REVOKED"]


async def test_revocation_while_the_decision_is_committed(house):
    """An Allow that was committed a moment before gives no permit a moment after."""
    ada = await house.login(house.ada)
    record_it = house.log.record

    async def record_then_revoke(kind: str, payload: msgspec.Struct) -> common.Placed:
        answer = await record_it(kind, payload)
        house.world.revoke(house.ada)
        return answer

    house.gate.log.record = record_then_revoke  # type: ignore[method-assign]
    with refused(Code.LICENSE_INVALID):
        await house.authorize(ada, "memory/write", WRITE)


async def test_logout_while_the_decision_is_committed(house):
    """Nor does a session that ended in between."""
    bob = await house.login(house.bob)
    record_it = house.log.record

    async def record_then_close(kind: str, payload: msgspec.Struct) -> common.Placed:
        answer = await record_it(kind, payload)
        house.world.close(bob.view.session_id, "bob")
        return answer

    house.gate.log.record = record_then_close  # type: ignore[method-assign]
    with refused(Code.SESSION_CLOSED):
        await house.authorize(bob, "memory/write", WRITE)


async def test_logout_is_felt_here_before_its_record_is_seen(house):
    """The gate that closed a session needs no event to know it."""
    bob = await house.login(house.bob)
    house.log.behind = True
    await house.ask(contract.CLOSE, closing(house, bob))
    with refused(Code.SESSION_CLOSED):
        await house.authorize(bob, "memory/list")


async def test_rotated_gate_key_ends_the_sessions_it_signed(house):
    """What the old key said of who is logged in counts no more, cached or not."""
    bob = await house.login(house.bob)
    await house.authorize(bob, "ping")
    fresh = signing.Ed25519Signer.generate().public_key.hex()
    end = clock.format_ms(house.world.now_ms + 60_000)
    house.world.change("service_key", system.ServiceKey(service="gatekeeper", key=fresh, expires_at=end))
    with refused(Code.SESSION_INVALID):
        await house.authorize(bob, "ping")


async def test_closed_session(house):
    """Closed is closed, for every command, and a second closing says so."""
    ada = await house.login(house.ada)
    await house.authorize(ada, "memory/list")
    await house.ask(contract.CLOSE, closing(house, ada))
    for request in (house.request(ada, "memory/list"), house.request(ada, "ping")):
        with refused(Code.SESSION_CLOSED):
            await house.ask(contract.AUTHORIZE, request)
    with refused(Code.SESSION_CLOSED):
        await house.ask(contract.CLOSE, closing(house, ada))


async def test_session_closed_at_another_gate(house):
    """The log's word is enough."""
    ada = await house.login(house.ada)
    await house.authorize(ada, "memory/list")
    house.world.close(ada.view.session_id, "ada")
    with refused(Code.SESSION_CLOSED):
        await house.authorize(ada, "memory/list")


async def test_closing_takes_the_sessions_own_proof(house):
    """Nobody logs another out with a stolen token."""
    ada = await house.login(house.ada)
    with refused(Code.PROOF_MISSING):
        await house.ask(contract.CLOSE, contract.SessionCall(session=ada.view.token))
    assert (await house.authorize(ada, "ping")).verdict is Verdict.ALLOW


async def test_closing_that_could_not_be_recorded_can_be_repeated(house):
    """Without its record a closing did not happen, and says so."""
    ada = await house.login(house.ada)
    house.log.broken = Refused(Code.UNAVAILABLE, "no writer")
    with refused(Code.UNAVAILABLE):
        await house.ask(contract.CLOSE, closing(house, ada))
    house.log.broken = None
    assert await house.ask(contract.CLOSE, closing(house, ada)) == Empty()


def forged(house: House, signer: signing.Signer | None = None, kind: str = signing.SESSION, **changes: Any) -> str:
    said = house.world.token(house.bob, **changes)
    return envelope.seal(signer or house.world.services["gatekeeper"], kind, said)


async def test_token_of_another_runtime_or_tenant(house):
    """A session of another deployment is none here, even under the same key."""
    bob = await house.login(house.bob)
    for changes in ({"runtime_id": ids.new()}, {"tenant": "other"}):
        with refused(Code.SESSION_INVALID):
            await house.authorize(bob, "ping", session=forged(house, **changes))
    assert (await house.authorize(bob, "ping", session=forged(house))).verdict is Verdict.ALLOW


async def test_token_by_another_service_or_as_another_document(house):
    """Only the gatekeeper says who is logged in, and only in a session token."""
    bob = await house.login(house.bob)
    tokens = [
        forged(house, house.world.services["license"]),
        forged(house, kind=signing.PERMIT),
        bob.view.token[:-4] + "AAAA",
        "x",
    ]
    for token in tokens:
        with refused(Code.SESSION_INVALID):
            await house.authorize(bob, "ping", session=token)


async def test_session_past_its_end(house):
    """A session ends at its end."""
    bob = await house.login(house.bob)
    house.world.clock.advance(session.LONGEST_SESSION_MS)
    with refused(Code.SESSION_EXPIRED):
        await house.authorize(bob, "ping")


async def test_unknown_command(house):
    """What isn't declared is denied, and so is what something else admits."""
    bob = await house.login(house.bob)
    for command in ("memory/writex", "", "session/open", "canon/append", "quorum/attest"):
        with refused(Code.UNKNOWN_COMMAND):
            await house.authorize(bob, command)


async def test_tampered_permit(house):
    """A permit is for its bytes, its command and its five seconds, and nobody else can write one."""
    bob = await house.login(house.bob)
    answer = await house.authorize(bob, "memory/write", WRITE)
    said, _, signature = answer.permit.partition(".")
    body = envelope.peek_unverified(answer.permit, permit.Permit)
    flattered = msgspec.structs.replace(body, loa=Loa.ROOT)
    swapped = envelope.seal(bob.person.signer, signing.PERMIT, flattered).partition(".")[0] + "." + signature
    for token, command, text, code in [
        (swapped, "memory/write", WRITE, Code.PERMIT_INVALID),
        (said, "memory/write", WRITE, Code.PERMIT_INVALID),
        (answer.permit, "memory/write", WRITE + " ", Code.PERMIT_MISMATCH),
        (answer.permit, "canon/user/write", WRITE, Code.PERMIT_MISMATCH),
    ]:
        with refused(code):
            house.bound(msgspec.structs.replace(answer, permit=token), command, text)
    house.world.clock.advance(permit.START_WINDOW_MS + 1)
    with refused(Code.PERMIT_EXPIRED):
        house.bound(answer, "memory/write", WRITE)


# Attacks on a login


async def test_certificate_of_another_nonce(house):
    """A certificate opens the one session it was signed for."""
    challenge, key = await house.challenge(), signing.Ed25519Signer.generate()
    certificate = house.world.certificate(house.ada, key, challenge)
    fresh = await house.challenge()
    with refused(Code.CERTIFICATE_INVALID):
        await house.ask(contract.OPEN, opening(house.ada, key, fresh, certificate))


def opening(
    person: Person, key: signing.Signer | None, challenge: contract.Challenge, certificate: str | None
) -> contract.OpenSession:
    return contract.OpenSession(
        license=person.toml,
        nonce=challenge.nonce,
        session_key=None if key is None else key.public_key.hex(),
        certificate=certificate,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime_id": ids.new()},
        {"tenant": "other"},
        {"licence_id": ids.new()},
        {"session_key": "ab" * 32},
        {"not_after_ms": NOW_MS - 1},
        {"not_after_ms": NOW_MS + 13 * 3_600_000},
        {"mutations": ("license/creat",), "mutations_not_after_ms": NOW_MS + 1_000},
        {"mutations": ("license/create",), "mutations_not_after_ms": NOW_MS + 16 * 60_000},
        {"mutations": ("license/create",), "mutations_not_after_ms": 0},
    ],
)
async def test_certificate_that_says_something_else(house, changes):
    """Deployment, licence, key, end and mutations are each checked."""
    with refused(Code.CERTIFICATE_INVALID):
        await house.login(house.ada, **changes)


async def test_certificate_by_another_owner_or_none(house):
    """Root's session is opened by Root's key alone."""
    root, key, challenge = house.world.root, signing.Ed25519Signer.generate(), await house.challenge()
    thief = Person("thief")
    thief.table = root.table
    stolen = house.world.certificate(thief, key, challenge)
    for request in (
        opening(root, key, challenge, stolen),
        opening(root, key, challenge, None),
        opening(root, None, challenge, None),
    ):
        with refused(Code.CERTIFICATE_INVALID):
            await house.ask(contract.OPEN, request)


async def test_nonce_used_twice(house):
    """A nonce opens one session."""
    challenge = await house.challenge()
    await house.ask(contract.OPEN, opening(house.bob, None, challenge, None))
    with refused(Code.NONCE_INVALID):
        await house.ask(contract.OPEN, opening(house.bob, None, challenge, None))


async def test_nonce_too_old_or_from_before_a_restart(house):
    """A nonce lives a minute, and not longer than the gate's memory of it."""
    challenge = await house.challenge()
    house.world.clock.advance(1)
    with refused(Code.NONCE_INVALID):
        await house.ask(contract.OPEN, opening(house.bob, None, challenge, None), gate=house.another())
    house.world.clock.advance(session.NONCE_MS)
    with refused(Code.NONCE_INVALID):
        await house.ask(contract.OPEN, opening(house.bob, None, challenge, None))


async def test_nonce_that_the_gate_never_gave(house):
    """Nobody makes up nonces, and none of another deployment counts."""
    body = session.Nonce(nonce="0" * 32, runtime_id=ids.new(), tenant="default", issued_ms=house.world.now_ms)
    challenge = await house.challenge()
    for nonce in (
        envelope.seal(house.world.services["gatekeeper"], signing.NONCE, body),
        envelope.seal(house.bob.signer, signing.NONCE, body),
        "x",
    ):
        with refused(Code.NONCE_INVALID):
            await house.ask(
                contract.OPEN, opening(house.bob, None, msgspec.structs.replace(challenge, nonce=nonce), None)
            )


async def test_licence_that_was_never_issued(house):
    """A stolen seal key mints nothing that counts."""
    assert house.bob.table is not None
    minted = msgspec.structs.replace(house.bob.table, id=ids.new(), loa=Loa.OPERATOR)
    thief = Person("thief", keyed=False)
    thief.toml = sealed(house, minted)
    with refused(Code.LICENSE_INVALID) as caught:
        await house.login(thief)
    assert caught.value.detail["reasons"] == ["NEVER_ISSUED"]


def sealed(house: House, table: licence.LicenceTable) -> str:
    return licence.to_toml(licence.seal(table, house.world.services["license"]))


async def test_licence_that_was_issued_a_moment_ago(house):
    """A gate that lags looks at the log's head before it says that a sealed licence was never issued."""
    house.log.follow()
    house.log.behind = True
    eve = house.world.issue(Person("eve", keyed=False), Loa.OPERATOR)
    assert (await house.login(eve)).view.owner_id == "eve"


async def test_revoked_licence_opens_nothing(house):
    """And leaves no session in the log."""
    house.world.revoke(house.bob)
    with refused(Code.LICENSE_INVALID):
        await house.login(house.bob)
    assert house.log.payloads("session_opened") == []


async def test_keyless_mentor_licence_opens_nothing(house):
    """Even if the log held one: who may approve others has a key."""
    ivy = house.world.issue(Person("ivy", keyed=False), Loa.OPERATOR)
    assert ivy.table is not None
    table = msgspec.structs.replace(ivy.table, loa=Loa.MENTOR)
    entry = house.log.state.licences[ivy.licence_id]
    changed = msgspec.structs.replace(entry, table=table, content_hash=licence.content_hash(table))
    house.log.state.licences[ivy.licence_id] = changed
    ivy.toml = sealed(house, table)
    with refused(Code.LICENSE_INVALID) as caught:
        await house.login(ivy)
    assert caught.value.detail["reasons"] == ["KEY_MISSING"]


async def test_weak_session_key(house):
    """The identity point signs for everybody, so it signs for nobody."""
    weak = (1).to_bytes(32, "little").hex()
    challenge = await house.challenge()
    with refused(Code.WEAK_KEY):
        await house.ask(
            contract.OPEN, contract.OpenSession(license=house.bob.toml, nonce=challenge.nonce, session_key=weak)
        )


async def test_session_ends_with_its_licence_at_the_latest(house):
    """What the caller is told of the end is never beyond the licence's own."""
    eve = house.world.issue(Person("eve", keyed=False), Loa.OPERATOR, days=0)
    house.world.clock.ms = NOW_MS
    with refused(Code.LICENSE_INVALID):
        await house.login(eve)
    assert house.bob.table is not None
    end_ms = clock.parse_ms(house.bob.table.expires_at)
    house.world.clock.ms = end_ms - 1_000
    assert (await house.login(house.bob)).view.not_after_ms == end_ms


async def test_session_without_a_record_is_no_session(house):
    """If the login can't be recorded there is no token."""
    house.log.broken = Refused(Code.UNAVAILABLE, "no writer")
    with refused(Code.UNAVAILABLE):
        await house.login(house.bob)


# Floods


async def test_too_many_calls(house):
    """Beyond the limit calls are refused unrecorded, with the seconds to wait; a minute later they pass."""
    house.gate = house.another(calls_per_minute=3)
    bob = await house.login(house.bob)
    for _ in range(3):
        await house.authorize(bob, "ping")
    with refused(Code.RATE_LIMITED) as caught:
        await house.authorize(bob, "ping")
    assert caught.value.detail == {"retry_after_s": 60}
    house.world.clock.advance(60_000)
    assert (await house.authorize(bob, "ping")).verdict is Verdict.ALLOW


async def test_too_many_long_calls(house):
    """A licence's minute holds so many long calls as the gate has time for, however few calls they are; short ones go on, and its rate is
    what it was."""
    house.gate = house.another(calls_per_minute=20)
    bob = await house.login(house.bob)
    long = msgspec.json.encode({"key": "k", "value": "x" * 15 * 65_536}).decode()
    await house.authorize(bob, "canon/user/write", long)
    with refused(Code.RATE_LIMITED) as caught:
        await house.authorize(bob, "canon/user/write", long)
    assert caught.value.detail == {"retry_after_s": 60}
    await house.authorize(bob, "memory/write", WRITE)
    assert house.gate.desk.calls_last_minute(house.bob.licence_id) == 2
    house.world.clock.advance(60_000)
    await house.authorize(bob, "canon/user/write", long)


async def test_braking_has_room_of_its_own(house):
    """Root can still revoke when its calls are used up."""
    house.world.clock.ms += 60_000  # what Root did before is in the log, and counts for a minute
    house.gate = house.another(calls_per_minute=2, braking_reserve=1)
    root = await house.login(house.world.root)
    for _ in range(2):
        await house.authorize(root, "ping")
    with refused(Code.RATE_LIMITED):
        await house.authorize(root, "ping")
    assert (await house.authorize(root, "license/revoke", owner=True)).verdict is Verdict.ALLOW
    with refused(Code.RATE_LIMITED):
        await house.authorize(root, "license/revoke", owner=True)


async def test_denials_beyond_the_recorded_ones_are_counted(house):
    """A caller gets ten denials a minute into the log; the rest is one number."""
    bob = await house.login(house.bob)
    answers = []
    for _ in range(13):
        with refused(Code.LOA_TOO_LOW) as caught:
            await house.authorize(bob, "audit/list")
        answers.append("decision" in caught.value.detail)
    assert answers == [True] * 10 + [False] * 3
    assert len(house.log.judged("audit/list")) == 10
    await house.gate.summarise()
    assert [summary.counts for summary in house.log.payloads("refusal_summary")] == [{"LOA_TOO_LOW": 3}]


async def test_an_uneventful_minute_is_no_record(house):
    """Nothing refused, nothing written."""
    await house.gate.summarise()
    assert house.log.payloads("refusal_summary") == []


async def test_counts_survive_a_writer_that_is_away(house):
    """A summary that can't be written is told with the next."""
    bob = await house.login(house.bob)
    with refused(Code.UNKNOWN_COMMAND):
        await house.authorize(bob, "nothing")
    house.log.broken = Refused(Code.UNAVAILABLE, "no writer")
    await house.gate.summarise()
    house.log.broken = None
    with refused(Code.UNKNOWN_COMMAND):
        await house.authorize(bob, "nothing")
    await house.gate.stop()
    assert [summary.counts for summary in house.log.payloads("refusal_summary")] == [{"UNKNOWN_COMMAND": 2}]


async def test_what_a_face_refused_joins_the_summary(house):
    """One record a minute tells of the gateway's refusals too; codes that don't exist are refused whole."""
    await house.ask(contract.REPORT, contract.RefusalCounts(counts={"CSRF_INVALID": 4}))
    with refused(Code.BAD_INPUT):
        await house.ask(contract.REPORT, contract.RefusalCounts(counts={"RATE_LIMITED": 1, "NO_SUCH_CODE": 1}))
    with refused(Code.BAD_INPUT):
        await house.ask(contract.REPORT, contract.RefusalCounts(counts={"RATE_LIMITED": 2**53}))
    assert counted(house) == {"CSRF_INVALID": 4}


async def test_malformed_parameters_are_counted_not_judged(house):
    """What is no JSON object never reaches the judge."""
    bob = await house.login(house.bob)
    with refused(Code.BAD_INPUT):
        await house.authorize(bob, "memory/write", "[1]")
    assert counted(house) == {"BAD_INPUT": 1}


# Shared reads


async def test_reads_share_a_decision(house):
    """Same session, command and target: one decision for up to a minute, each permit for its own bytes."""
    ada = await house.login(house.ada)
    bodies = ['{"limit":1}', '{"limit":2}']
    first, second = [await house.authorize(ada, "memory/list", body) for body in bodies]
    assert first.decision == second.decision
    permits = [house.bound(a, "memory/list", b).permit for a, b in zip((first, second), bodies, strict=True)]
    assert permits[0].digest != permits[1].digest
    assert permits[0].permit_id != permits[1].permit_id
    house.world.clock.advance(60_000)
    assert (await house.authorize(ada, "memory/list", bodies[0])).decision != first.decision


async def test_writes_never_share(house):
    """Each write has its decision, since each decision admits one append."""
    bob = await house.login(house.bob)
    first, second = [await house.authorize(bob, "memory/write", WRITE) for _ in range(2)]
    assert first.decision != second.decision


async def test_sessions_and_ways_of_proving_share_nothing(house):
    """A decision says who and how, so it serves only them."""
    ada, again = await house.login(house.ada), await house.login(house.ada)
    refs = [
        (await house.authorize(ada, "memory/list")).decision,
        (await house.authorize(again, "memory/list")).decision,
        (await house.authorize(ada, "memory/list", owner=True)).decision,
    ]
    assert len({ref.link() for ref in refs}) == 3


# A model by which hardly anybody but Root does anything.
HARDER: dict[str, Any] = {
    "bias": -75_000_000,
    "weights": msgspec.structs.replace(trust.DEFAULT_MODEL.weights, loa=100_000_000),
}


async def test_a_policy_or_model_change_ends_sharing_at_once(house):
    """What was allowed by the old law is judged again by the new one."""
    ada = await house.login(house.ada)
    first = await house.authorize(ada, "memory/list")
    house.world.change_policy(rungs={"memory/read": Loa.ROOT})
    second = await house.authorize(ada, "memory/list")
    house.world.change_model(**HARDER)
    assert first.decision != second.decision
    with refused(Code.DENIED_BY_TRUST):
        await house.authorize(ada, "memory/list")


async def test_law_that_changed_before_the_decision_could_be_shared(house):
    """A read that was decided just before the law moved is shared with nobody."""
    ada = await house.login(house.ada)
    record_it = house.log.record

    async def record_then_change(kind: str, payload: msgspec.Struct) -> common.Placed:
        answer = await record_it(kind, payload)
        house.log.record = record_it  # type: ignore[method-assign]
        house.world.change_policy(rungs={"memory/list": Loa.ROOT})
        return answer

    house.log.record = record_then_change  # type: ignore[method-assign]
    await house.authorize(ada, "memory/list")
    with refused(Code.LOA_TOO_LOW):
        await house.authorize(ada, "memory/list")


ENDS = {
    "revocation": (lambda house, ada: house.world.revoke(house.ada), Code.LICENSE_INVALID),
    "logout elsewhere": (lambda house, ada: house.world.close(ada.view.session_id, "ada"), Code.SESSION_CLOSED),
    "the gate's key revoked": (
        lambda house, ada: house.world.revoke_key(house.world.services["gatekeeper"], role="service"),
        Code.UNAVAILABLE,
    ),
    "the gate's key replaced": (lambda house, ada: house.world.rotate_service("gatekeeper"), Code.SESSION_INVALID),
    "a raised rung": (lambda house, ada: house.world.change_policy(rungs=RAISED), Code.LOA_TOO_LOW),
    "a harder model": (lambda house, ada: house.world.change_model(**HARDER), Code.DENIED_BY_TRUST),
}
RAISED = dict.fromkeys(("memory/list", "memory/read", "ping", "trust/status"), Loa.ROOT)


@pytest.mark.parametrize("end", ENDS)
async def test_every_shared_read_ends_at_once(house, end):
    """Four reads with a decision to share: the very next call of each feels what happened, and gets no permit."""
    ada = await house.login(house.ada)
    for name in RAISED:
        first, second = await house.authorize(ada, name), await house.authorize(ada, name)
        assert first.decision == second.decision
    happens, code = ENDS[end]
    happens(house, ada)
    for name in RAISED:
        with refused(code):
            await house.authorize(ada, name)


async def test_an_expired_licence_ends_sharing(house):
    """A shared decision lives no longer than the licence."""
    ada = await house.login(house.ada)
    assert house.ada.table is not None
    house.world.clock.ms = clock.parse_ms(house.ada.table.expires_at) - 10
    token = forged(
        house,
        session_id=ada.view.session_id,
        licence_id=house.ada.licence_id,
        owner_id="ada",
        session_key=ada.key.public_key.hex(),
        not_after_ms=house.world.now_ms + 60_000,
    )
    await house.authorize(ada, "memory/list", session=token)
    house.world.clock.advance(10)
    with refused(Code.LICENSE_INVALID):
        await house.authorize(ada, "memory/list", session=token)


# Batches


async def test_calls_in_flight_share_one_record(house):
    """What queued while the last record was written becomes the next one."""
    bob = await house.login(house.bob)
    house.log.gate = asyncio.Event()
    calls = [asyncio.create_task(house.authorize(bob, "memory/write", WRITE)) for _ in range(20)]
    await asyncio.sleep(0)
    house.log.gate.set()
    answers = await asyncio.gather(*calls)
    assert sorted(answer.decision.index for answer in answers) == list(range(20))
    assert len({answer.decision.record for answer in answers}) == 1


async def test_a_call_that_waited_long_still_counts_where_its_record_says(house):
    """Counted when it came, judged much later: the next call's rate is still at least what a replay finds in the log."""
    bob = await house.login(house.bob)
    house.log.gate = asyncio.Event()
    waiting = [asyncio.create_task(house.authorize(bob, "memory/write", WRITE)) for _ in range(2)]
    await asyncio.sleep(0)
    house.world.clock.advance(59_500)
    house.log.gate.set()
    await asyncio.gather(*waiting)
    house.world.clock.advance(1_000)
    await house.authorize(bob, "memory/write", WRITE)
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


async def test_a_batch_holds_no_more_than_its_record(house):
    """Wide scopes and many calls never make a record that the writer must refuse."""
    wide = (*(f"{'x' * 58}/{n:04}" for n in range(63)), "*")
    eve = house.world.issue(Person("eve", keyed=False), Loa.OPERATOR, scope=wide)
    session_of_eve = await house.login(eve)
    house.gate.desk._limits = Limits(calls_per_minute=1000)
    answers = await asyncio.gather(*(house.authorize(session_of_eve, "ping") for _ in range(60)))
    sizes = [len(batch.decisions) for batch in house.log.payloads("decision_batch")]
    assert len(answers) == 60
    assert max(sizes) < 60


async def test_law_that_moved_meanwhile_is_judged_again(house):
    """The writer says that the policy moved; the gate follows and judges by the new one."""
    bob = await house.login(house.bob)
    house.log.behind = True
    house.world.change_policy(rungs={"memory/write": Loa.MENTOR})
    with refused(Code.LOA_TOO_LOW) as caught:
        await house.authorize(bob, "memory/write", WRITE)
    assert "decision" in caught.value.detail
    assert (await house.authorize(bob, "canon/user/write", WRITE)).verdict is Verdict.ALLOW


async def test_session_closed_elsewhere_while_judged(house):
    """The writer refuses the Allow, and the gate then finds the session closed."""
    bob = await house.login(house.bob)
    house.log.behind = True
    house.world.close(bob.view.session_id, "bob")
    with refused(Code.SESSION_CLOSED):
        await house.authorize(bob, "memory/write", WRITE)


async def test_law_that_never_settles_is_a_gate_fault(house):
    """A bounded number of tries, then nothing is issued."""
    bob = await house.login(house.bob)
    house.log.broken = Refused(Code.STALE_DECISION, "moved")
    with refused(Code.GATE_FAULT):
        await house.authorize(bob, "memory/write", WRITE)


@pytest.mark.parametrize("broken", [Refused(Code.UNAVAILABLE, "no writer"), RuntimeError("secret"), TimeoutError()])
async def test_whatever_breaks_nothing_is_issued(house, broken):
    """Law 5: a gate that can't decide says no, and doesn't say what broke."""
    bob = await house.login(house.bob)
    house.log.broken = broken
    with refused(Code.GATE_FAULT) as caught:
        await house.authorize(bob, "memory/write", WRITE)
    assert "secret" not in str(caught.value)
    house.log.broken = None
    assert (await house.authorize(bob, "memory/write", WRITE)).verdict is Verdict.ALLOW


# What can't be judged


def faults(house: House, command: str = "memory/write") -> int:
    """So many recorded calls blame the gate."""
    chains = house.log.judged(command)
    return sum((one.verdict, [step.check for step in one.steps]) == (Verdict.DENY, ["gate"]) for one in chains)


def without_a_model(house: House, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(house.log.state, "model", None)


def a_model_of_five_features(house: House, patch: pytest.MonkeyPatch) -> None:
    five = types.SimpleNamespace(action=-1, target=-1, loa=1, rate=-1, entropy=-1)
    model = types.SimpleNamespace(version="five", weights=five, bias=0, threshold=0)
    patch.setattr(house.log.state, "model", model)


def a_model_beyond_all_bounds(house: House, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(house.log.state, "model", msgspec.structs.replace(trust.DEFAULT_MODEL, bias=10**15))


def a_judge_that_raises(house: House, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate, "judge", lambda *_: 1 // 0)


def a_judge_that_refuses(house: House, patch: pytest.MonkeyPatch) -> None:
    def judge(*_: Any) -> Any:
        raise Refused(Code.BAD_INPUT, "secret")

    patch.setattr(gate, "judge", judge)


def no_history(house: House, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(house.gate.desk, "_standings", None)


BREAKS = [
    without_a_model,
    a_model_of_five_features,
    a_model_beyond_all_bounds,
    a_judge_that_raises,
    a_judge_that_refuses,
    no_history,
]


@pytest.mark.law
@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
async def test_evaluator_error_denies_and_is_recorded(house, monkeypatch, breaks):
    """Law 5: nothing is issued, the denial stands in the log and the answer names it; the caller is as good as before, so is the ledger."""
    ada = await house.login(house.ada)
    with monkeypatch.context() as patch:
        breaks(house, patch)
        with refused(Code.GATE_FAULT) as caught:
            await house.authorize(ada, "memory/write", WRITE)
    (chain,) = house.log.judged("memory/write")
    assert faults(house) == 1
    assert house.world.named == {}
    newest = record.check(house.world.log[-1])
    assert caught.value.detail == {"decision": f"{newest.core.id}.0"}
    assert (newest.payload.decisions[0].chain, chain.trust) == (chain, None)
    assert counted(house) == {}
    assert house.gate.desk.standing("ada") == trust.STANDING_START
    await house.authorize(ada, "memory/write", WRITE)
    assert house.log.judged("memory/write")[-1].trust.features.standing == trust.STANDING_START
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


async def test_a_call_that_cannot_be_judged_takes_nobody_with_it(house, monkeypatch):
    """Others of the same record get what is theirs."""
    bob, ada = await house.login(house.bob), await house.login(house.ada)
    judge = gate.judge

    def moody(state: Governance, facts: gate.Facts) -> decision.ReasoningChain:
        return judge(state, facts) if facts.owner_id == "bob" else 1 // 0

    monkeypatch.setattr(gate, "judge", moody)
    calls = (house.authorize(one, "memory/write", WRITE) for one in (bob, ada, bob))
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert (first.verdict, second.code, third.verdict) == (Verdict.ALLOW, Code.GATE_FAULT, Verdict.ALLOW)
    assert len(house.log.payloads("decision_batch")[-1].decisions) == 3
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


async def test_faults_fill_the_log_no_faster_than_denials(house, monkeypatch):
    """Ten a minute of one licence are recorded; what comes beyond is counted in the summary."""
    bob = await house.login(house.bob)
    a_judge_that_raises(house, monkeypatch)
    for _ in range(13):
        with refused(Code.GATE_FAULT):
            await house.authorize(bob, "memory/write", WRITE)
    assert faults(house) == 10
    assert counted(house) == {"GATE_FAULT": 3}


async def test_a_fault_that_cannot_even_be_said_issues_nothing(house, monkeypatch):
    """No chain, or none that can be recorded: the same answer, and nothing in the log."""
    bob = await house.login(house.bob)
    before = len(house.world.log)
    a_judge_that_raises(house, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(gate, "faulted", lambda *_: 1 // 0)
        with refused(Code.GATE_FAULT):
            await house.authorize(bob, "memory/write", WRITE)
    house.log.broken = Refused(Code.UNAVAILABLE, "no writer")
    with refused(Code.GATE_FAULT) as caught:
        await house.authorize(bob, "memory/write", WRITE)
    assert caught.value.detail is None
    assert len(house.world.log) == before
    assert counted(house) == {"GATE_FAULT": 2}


async def test_a_fault_counts_in_the_minute_and_in_the_next_process(house, monkeypatch):
    """As a call it is one of the licence's, whichever process made it; and the replay agrees with both."""
    house.world.clock.advance(60_000)
    house.gate = house.another()
    await house.gate.history.catch_up()
    bob = await house.login(house.bob)
    with monkeypatch.context() as patch:
        a_judge_that_raises(house, patch)
        with refused(Code.GATE_FAULT):
            await house.authorize(bob, "memory/write", WRITE)
    await house.authorize(bob, "memory/write", WRITE)
    assert house.log.judged("memory/write")[-1].trust.features.rate == trust.rate(2, house.world.rate_limit)
    house.world.clock.advance(1)
    house.gate = house.another()
    await house.gate.history.catch_up()
    await house.authorize(bob, "memory/write", WRITE)
    assert house.log.judged("memory/write")[-1].trust.features.rate == trust.rate(3, house.world.rate_limit)
    assert house.gate.desk.standing("bob") > trust.STANDING_START
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


async def test_a_writer_that_never_answers(house):
    """A decision that takes too long is a fault, and the next call isn't stuck behind it once the writer is back."""
    house.gate = house.another(answer_s=0.02)
    bob = await house.login(house.bob)
    house.log.gate = asyncio.Event()
    with refused(Code.GATE_FAULT):
        await house.authorize(bob, "memory/write", WRITE)
    house.log.gate.set()
    await house.gate.desk.stop()
    assert (await house.authorize(bob, "memory/write", WRITE)).verdict is Verdict.ALLOW


async def test_full_queue_is_a_no(house):
    """The gate never queues without bound."""
    house.gate = house.another(waiting=1, batch=1)
    bob = await house.login(house.bob)
    house.log.gate = asyncio.Event()
    calls = [asyncio.create_task(house.authorize(bob, "memory/write", WRITE)) for _ in range(3)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    house.log.gate.set()
    await asyncio.wait(calls)
    outcomes = sorted(type(call.exception()).__name__ for call in calls)
    assert outcomes == ["NoneType", "Refused", "Refused"]
    assert {call.exception().code for call in calls if call.exception()} == {Code.BUSY}
    assert done


async def test_a_full_queue_keeps_room_for_who_may_brake(house):
    """Behind a full queue Root revokes, decided before those who wait; an operator who asks for the same waits with everyone else."""
    house.gate = house.another(waiting=2, waiting_reserve=1, batch=1)
    bob, root = await house.login(house.bob), await house.login(house.world.root)
    house.log.gate = asyncio.Event()
    first = asyncio.create_task(house.authorize(bob, "memory/write", WRITE))
    while not house.gate.desk._batches._pump:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    waiting = [asyncio.create_task(house.authorize(bob, "memory/write", WRITE)) for _ in range(2)]
    await asyncio.sleep(0)
    with refused(Code.BUSY):
        await house.authorize(bob, "memory/write", WRITE)
    with refused(Code.BUSY):
        await house.authorize(bob, "license/revoke")
    brake = asyncio.create_task(house.authorize(root, "license/revoke", owner=True))
    await asyncio.sleep(0)
    with refused(Code.BUSY):
        await house.authorize(root, "license/revoke", owner=True)
    house.log.gate.set()
    seqs = [await one for one in (first, brake, *waiting)]
    assert all(one.verdict is Verdict.ALLOW for one in seqs)
    decided = [one.decisions[0].chain.command for one in house.log.payloads("decision_batch")]
    assert decided[-4:] == ["memory/write", "license/revoke", "memory/write", "memory/write"]


async def test_a_full_audit_queue_issues_nothing(house):
    """No room for the decision: BUSY, no permit, nothing in the log, and nothing that looks like a fault."""
    bob = await house.login(house.bob)
    before = len(house.world.log)
    house.log.broken = Refused(Code.BUSY, "4096 records wait for their place")
    with refused(Code.BUSY):
        await house.authorize(bob, "memory/write", WRITE)
    assert len(house.world.log) == before
    house.log.broken = None
    assert (await house.authorize(bob, "memory/write", WRITE)).verdict is Verdict.ALLOW


async def test_a_restart_gives_nobody_new_calls_or_denials(house):
    """What stands in the log of the last minute counts for the next process as it did for the last."""
    house.world.clock.advance(60_000)
    house.gate = house.another(calls_per_minute=12)
    bob = await house.login(house.bob)
    for _ in range(10):
        with refused(Code.LOA_TOO_LOW):
            await house.authorize(bob, "audit/list")
    house.world.clock.advance(1)
    house.gate = house.another(calls_per_minute=12)
    await house.gate.history.catch_up()
    with refused(Code.LOA_TOO_LOW) as caught:
        await house.authorize(bob, "audit/list")
    assert "decision" not in (caught.value.detail or {})
    assert len(house.log.judged("audit/list")) == 10
    await house.authorize(bob, "ping")
    with refused(Code.RATE_LIMITED):
        await house.authorize(bob, "ping")
    house.world.clock.advance(60_000)
    await house.authorize(bob, "ping")


def test_what_a_call_is_about():
    """Of `authorize` the command in it, however its body is broken; of anything else itself."""
    body = msgspec.json.encode(contract.Authorize(session="s", command="license/revoke", parameters="{}"))
    assert rules.carried(contract.AUTHORIZE, body) is catalogue.COMMANDS["license/revoke"]
    assert rules.carried(contract.CLOSE, b"junk") is contract.CLOSE
    for broken in (b"", b"junk", b"[]", b'{"command":7}', b'{"command":"no/such"}', b"[" * 5000, b"\xff"):
        assert rules.carried(contract.AUTHORIZE, broken) is None


# What a caller may know


@pytest.mark.law
async def test_what_is_listed_is_exactly_what_may_be_called(house):
    """Law 7: for every command and level, listed if and only if neither level nor scope refuses it."""
    house.world.change_policy(rungs={"memory/list": Loa.MENTOR})
    eve = house.world.issue(
        Person("eve", keyed=False), Loa.OBSERVER, scope=("memory/*", "commands/list", "trust/*", "license/*")
    )
    for person in (house.bob, house.ada, eve):
        client = await house.login(person)
        listed = await house.call(client, contract.COMMAND_LIST, Empty())
        names = {view.name for view in listed.items}
        for command in catalogue.COMMANDS.values():
            refusal = await outcome(house, client, command.name)
            callable_now = refusal not in {Code.LOA_TOO_LOW, Code.OUT_OF_SCOPE, Code.UNKNOWN_COMMAND}
            assert (command.name in names) == callable_now, command.name
            assert callable_now <= (command.admission is Admission.PERMIT)


async def outcome(house: House, client: Client, command: str) -> Code | None:
    house.world.clock.advance(10_000)
    try:
        await house.authorize(client, command)
    except Refused as refusal:
        return refusal.code
    return None


async def test_trust_check_tells_where_one_stands(house):
    """The same numbers as the gate's own: an operator may write memory and administers nothing."""
    ada = await house.login(house.ada)
    write = await house.call(ada, contract.TRUST_CHECK, contract.TrustCheck(action="write", target="memory"))
    rule = await house.call(ada, contract.TRUST_CHECK, contract.TrustCheck(action="administer", target="system"))
    odd = await house.call(ada, contract.TRUST_CHECK, contract.TrustCheck(action="frobnicate", target="moon"))
    assert (write.allowed, rule.allowed, odd.allowed) == (True, False, False)
    assert write.features.rate > 0


async def test_small_answers(house):
    """Ping says who one is; info and status say where one is; refresh says what is in force."""
    root = await house.login(house.world.root)
    pong = await house.call(root, contract.PING, Empty())
    info = await house.call(root, contract.SYSTEM_INFO, Empty())
    status = await house.call(root, contract.TRUST_STATUS, Empty())
    assert (pong.owner_id, pong.loa) == ("root", Loa.ROOT)
    assert (info.canon_fingerprint, info.sealed, info.quorum) == (house.log.state.genesis_hash, False, None)
    assert status.model == house.log.state.model


async def test_model_refresh_reaches_the_head(house):
    """A gate that lags follows to the head and names the model there."""
    root = await house.login(house.world.root)
    body = "{}"
    answer = await house.authorize(root, "model/refresh", body, owner=True)
    call = run.Call(
        command=contract.MODEL_REFRESH,
        body=b"{}",
        trace_id="0" * 32,
        deadline_ms=None,
        permitted=house.bound(answer, "model/refresh", body),
    )
    house.log.behind = True
    house.world.change_model()
    reload = await house.ask(contract.MODEL_REFRESH, Empty(), call=call)
    assert reload.model == "changed"


def test_every_command_of_the_contract_has_its_handler():
    """The table answers what the contract declares, and nothing else."""
    assert set(HANDLERS) == set(contract.COMMANDS)


# Memories


def test_a_full_memory_says_no():
    """It never drops what could still be replayed."""
    once = replay.OnceOnly(window_ms=1_000, limit=2, started_ms=0)
    assert [once.use(name, 10, 10) for name in "abc"] == [replay.Use.FRESH, replay.Use.FRESH, replay.Use.FULL]
    assert once.use("a", 10, 10) is replay.Use.USED
    assert once.use("c", 3_000, 3_000) is replay.Use.FRESH


def test_full_rate_memory_says_no():
    """A caller that can't be counted isn't let through; idle ones make room."""
    rates = LastMinute(callers=1)
    assert rates.take("a", 0, 10) == 1
    assert rates.take("b", 0, 10) is None
    assert rates.take("b", 60_000, 10) == 1


def test_the_bearer_ceiling_is_below_what_needs_an_owner():
    """No command that needs its owner's word is within a bearer's reach."""
    assert all(not Loa.OPERATOR.includes(c.rung) for c in catalogue.COMMANDS.values() if c.needs_owner)
    assert access.in_scope(("*",), "ping")
    assert rules.command_named("ping") is contract.PING


# Standing


async def denied(house: House, client: Client, times: int, command: str = "license/list") -> None:
    """So many denials that stand in the log, at most ten a minute."""
    for _ in range(times):
        house.world.clock.advance(6_000)
        with refused(Code.LOA_TOO_LOW):
            await house.authorize(client, command)


async def test_bad_standing_costs_the_writes_before_the_reads(house):
    """Twelve denials: writing is over, reading goes on, and time forgives."""
    ada = await house.login(house.ada)
    await denied(house, ada, 12)
    with refused(Code.DENIED_BY_TRUST) as caught:
        await house.authorize(ada, "memory/write", WRITE)
    assert caught.value.detail["features"]["standing"] == 140_000
    await house.authorize(ada, "memory/list")
    house.world.clock.advance(5 * 3_600_000)
    ada = await house.login(house.ada)
    await house.authorize(ada, "memory/write", WRITE)


async def test_a_restart_forgives_nothing(house):
    """Another gate on the same log reads the same standing from it."""
    ada = await house.login(house.ada)
    await denied(house, ada, 12)
    house.gate = house.another()
    with refused(Code.DENIED_BY_TRUST) as caught:
        await house.authorize(ada, "memory/write", WRITE)
    assert caught.value.detail["features"]["standing"] == 140_000


async def test_who_is_not_authenticated_moves_nobody(house):
    """Calls with a stolen token, without its proof, cost its owner nothing."""
    ada = await house.login(house.ada)
    for _ in range(20):
        with refused(Code.PROOF_MISSING):
            await house.authorize(ada, "license/list", proof=None)
    assert house.gate.desk.standing("ada") == 500_000


async def test_a_batch_whose_answer_was_lost_still_counts(house):
    """The writer committed and nobody heard it: the next decision is judged by the log, not by what was heard."""
    ada = await house.login(house.ada)
    await denied(house, ada, 1)
    record_it = house.log.record

    async def record_then_lose(kind: str, payload: msgspec.Struct) -> common.Placed:
        await record_it(kind, payload)
        raise Refused(Code.UNAVAILABLE, "no answer in time")

    house.log.record = record_then_lose  # type: ignore[method-assign]
    with refused(Code.GATE_FAULT):
        await house.authorize(ada, "license/list")
    house.log.record = record_it  # type: ignore[method-assign]
    await house.authorize(ada, "memory/list")
    chain = house.log.judged("memory/list")[-1]
    assert chain.trust.features.standing == 440_000
    assert house.gate.desk.calls_last_minute(house.ada.licence_id) == 3
    assert chain.trust.standing_as_of == len(house.world.log) - 1


async def test_a_batch_that_is_written_late_still_counts(house):
    """The gate gave up waiting and the author didn't: nobody is judged until what is on its way stands, and the replay agrees."""
    ada = await house.login(house.ada)
    await denied(house, ada, 1)
    record_it = house.log.record

    async def record_later(kind: str, payload: msgspec.Struct, decided: Any = None) -> common.Placed:
        gatekeeper = house.world.instances["gatekeeper"]
        house.log.on_its_way.append(lambda: house.world.append(kind, payload, gatekeeper))
        raise Refused(Code.UNAVAILABLE, "no answer in time")

    house.log.record = record_later  # type: ignore[method-assign]
    with refused(Code.GATE_FAULT):
        await house.authorize(ada, "license/list")
    house.log.record = record_it  # type: ignore[method-assign]
    await house.authorize(ada, "memory/list")
    assert house.log.judged("memory/list")[-1].trust.features.standing == 500_000 - 2 * standing.LOSS
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


async def test_a_history_by_another_key_is_no_history(house):
    """Decisions that no gatekeeper of this log signed stop the gate: it neither believes nor ignores them."""
    ada = await house.login(house.ada)
    await denied(house, ada, 1)
    stranger = signing.Ed25519Signer.generate()
    seq, known = next(
        (placed.seq, record.check(placed.signed()))
        for placed in house.world.placed()
        if record.check(placed.signed()).core.kind == "decision_batch"
    )
    house.world.log[seq] = record.seal(known.core, bytes(house.world.log[seq].payload), os.urandom(16), stranger)
    house.gate = house.another()
    with refused(Code.GATE_FAULT):
        await house.authorize(ada, "memory/list")


async def test_a_score_taken_apart_adds_up(house):
    """trust/explain: bias and products make the logit, and the verdict is the gate's own."""
    await house.gate.history.catch_up()
    ada = await house.login(house.ada)
    told = await house.call(ada, contract.TRUST_EXPLAIN, contract.Explain(command="memory/write"))
    assert told.bias * 1_000_000 + sum(part.product for part in told.parts) == told.logit
    await house.authorize(ada, "memory/write", WRITE)
    judged = house.log.judged("memory/write")[-1]
    assert (told.logit, told.threshold, told.allowed) == (judged.trust.logit, judged.trust.threshold, True)


async def test_a_witness_is_proposed_on_its_own_standing(house):
    """A mentor with twelve denials isn't proposed, one without a history is; explained alike, by a gate that read it from the log."""
    mia = house.world.issue(Person("mia"), Loa.MENTOR)
    house.world.change_policy(rate_limit=1_000_000, thresholds={"witness/add": 7_500_000})
    await denied(house, await house.login(mia), 12, "license/create")
    house.gate = house.another()
    root = await house.login(house.world.root)
    with refused(Code.DENIED_BY_TRUST) as caught:
        await house.authorize(root, "witness/add", '{"witness_id":"mia"}', owner=True)
    detail = caught.value.detail
    assert (detail["standing_of"], detail["features"]["standing"]) == (["mia"], 140_000)
    assert (await house.authorize(root, "witness/add", '{"witness_id":"ned"}', owner=True)).verdict is Verdict.ALLOW
    assert [chain.trust.standing_of for chain in house.log.judged("witness/add")] == [("mia",), ("ned",)]
    for candidates, allowed in ((("ned",), True), (("ned", "mia"), False)):
        asked = contract.Explain(command="witness/add", candidates=candidates)
        told = await house.call(root, contract.TRUST_EXPLAIN, asked)
        assert (told.allowed, told.standing_of) == (allowed, candidates)
    with refused(Code.BAD_INPUT):
        asked = contract.Explain(command="license/create", candidates=("ned",))
        await house.call(root, contract.TRUST_EXPLAIN, asked)
    oracle.check(house.world.placed(), house.world.checkpoint(), house.world.state.genesis_hash)


async def test_what_is_hidden_explains_nothing(house):
    """A command above one's level is as unknown as one that isn't."""
    ada = await house.login(house.ada)
    for name in ("license/revoke", "no/such"):
        with refused(Code.UNKNOWN_COMMAND):
            await house.call(ada, contract.TRUST_EXPLAIN, contract.Explain(command=name))
