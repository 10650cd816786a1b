"""Every route answers every wrong request with a documented refusal that says what to do, and nothing is written."""

import asyncio
import io
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import yarl

from sigilcore import records, session
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue, common, gatekeeper, knowledge, license, quorum
from sigilcore.contracts.command import Admission, Command
from sigilcore.refusals import Code, Refused
from sigilrun.faces import openapi
from sigilrun.faces.routes import JSON, PREFIX, PROBLEM_JSON, ROUTES, Route
from tests.faults import bad_input
from tests.faults.bad_input import Case

AT_ONCE = 24
ABSENT = "01890a5d-ac96-774b-bcce-b302099a8057"
WITNESS = "witness-of-none"
DOCUMENT = openapi.document()


class Problem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A problem document, and nothing beside."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    next_step: str
    trace_id: str
    field: str | None = None
    info: dict[str, Any] | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> Problem:
        """The refusal, complete and told the same in every place."""
        told = msgspec.json.decode(self.body, type=Problem)
        assert self.headers["Content-Type"] == PROBLEM_JSON
        assert (told.status, told.type) == (self.status, f"urn:sigil:refusal:{told.code}")
        assert (told.code.status, told.next_step) == (self.status, told.code.next_step)
        assert told.detail
        assert self.headers["Sigil-Trace"] == told.trace_id
        return told


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def way(house):
    """Raw requests to the house."""
    async with aiohttp.ClientSession(house.address, cookie_jar=aiohttp.DummyCookieJar()) as opened:

        async def ask(method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            url = yarl.URL(house.address + target, encoded=True)
            data = None if body is None else io.BytesIO(body)
            async with opened.request(method, url, data=data, headers=given) as reply:
                return Answer(status=reply.status, headers=reply.headers, body=await reply.read())

        yield ask


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operator(house):
    """A bearer operator."""
    return await house.person("olga-bad", Loa.OPERATOR)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gone(house):
    """A bearer operator who will log out."""
    return await house.person("gone-bad", Loa.OPERATOR)


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def nothing_written(house):
    """Whatever a test here does, no effect, no user record and no system record stands in the ledger for it."""
    before = len((await house.ledger())[0])
    yield
    after, _ = await house.ledger()
    found = [json.loads(bytes(placed.header))["core"] for placed in after[before:]]
    assert [core["kind"] for core in found if core["space"] != "audit"] == []
    assert [core["kind"] for core in found if records.REGISTRY[core["kind"]].effect] == []


async def swept(way, headers: Mapping[str, str]) -> list[str]:
    """Send every case; what was answered otherwise than it must be."""
    gate, wrong = asyncio.Semaphore(AT_ONCE), []

    async def one(case: Case) -> None:
        async with gate:
            given = dict(headers) | ({"Content_Type": case.media} if case.body is not None else {})
            answer = await way(case.method or case.route.method, target(case), case.body, **given)
        try:
            check(case, answer)
        except (AssertionError, KeyError, msgspec.DecodeError) as error:
            wrong.append(f"{case}: {answer.status} {answer.body[:300]!r}: {error}")

    await asyncio.gather(*(one(case) for case in bad_input.cases()))
    return wrong


def target(case: Case) -> str:
    """Where a case goes."""
    return case.target or bad_input.filled(case.route)


def check(case: Case, answer: Answer) -> None:
    """The refusal is the right one, points at the right place and is documented."""
    told = answer.problem
    assert told.code is case.code
    if case.field is not None:
        assert told.field is not None
        assert told.field == case.field or told.field.startswith((f"{case.field}.", f"{case.field}["))
    if case.code is Code.BAD_INPUT:
        assert told.field is not None or case.field is None
    assert case.says in told.detail
    if case.code is Code.METHOD_NOT_ALLOWED:
        assert case.route.method in answer.headers["Allow"].split(", ")
    else:
        assert told.code in documented(case.route, answer.status)


def documented(route: Route, status: int) -> list[str]:
    """The codes that the description names for this answer."""
    path = DOCUMENT["paths"][route.path.replace("*}", "}")]
    name = path[route.method.lower()]["responses"][str(status)]["$ref"].rpartition("/")[2]
    return DOCUMENT["components"]["responses"][name]["x-sigil-codes"]


def test_the_sweep_leaves_no_command_and_no_field_out():
    """Each public command is asked wrongly in at least twenty ways, and each field that can be wrong in at least one."""
    names = [case.route.name for case in bad_input.cases() if case.body is not None]
    fields = {(case.route.name, case.field) for case in bad_input.cases()}
    for command in catalogue.public():
        assert names.count(command.name) >= 20, command.name
        for field in msgspec.structs.fields(command.request):
            if field.type is not Any:
                assert (command.name, f"$.{field.encode_name}") in fields, (command.name, field.encode_name)


async def test_a_stranger_sends_everything_wrong(way):
    """What is wrong with a request is told to anybody, for it is public what would be right."""
    assert await swept(way, {}) == []


async def test_an_operator_sends_everything_wrong(house, way, operator):
    """A session changes nothing about it; and since the gate never heard of these, no decision is on record."""
    before = len((await house.ledger())[0])
    assert await swept(way, {"Authorization": f"Bearer {operator.client.session.token}"}) == []
    after, _ = await house.ledger()
    assert not any(b'"decision_batch"' in bytes(placed.header) for placed in after[before:])


async def test_a_cookie_without_its_csrf_token(house, way, operator):
    """A browser's cookie alone moves nothing, whatever the body."""
    opened = await way("POST", "/api/session/open", await login_body(house, operator), Content_Type=JSON)
    cookie = opened.headers["Set-Cookie"].partition(";")[0]
    for route in ROUTES:
        if route.method != "POST" or route.name == "csrf/token":
            continue
        for shown in ({}, {"x_csrf_token": "0" * 64}):
            answer = await way("POST", route.path, b"{", Content_Type=JSON, Cookie=cookie, **shown)
            assert (answer.problem.code, answer.problem.field) == (Code.CSRF_INVALID, "x-csrf-token"), route
            assert Code.CSRF_INVALID in documented(route, 403)


async def login_body(house, person) -> bytes:
    """A session/open that is good."""
    asked = await person.client.call(gatekeeper.CHALLENGE, common.Empty())
    return msgspec.json.encode(
        gatekeeper.OpenSession(
            license=person.toml, nonce=asked.nonce, not_after_ms=time.time_ns() // 1_000_000 + 60_000
        )
    )


def with_permit() -> list[Route]:
    """The routes that need a session."""
    return [
        route
        for route in ROUTES
        if route.command is not None and not route.page and route.command.admission is Admission.PERMIT
    ]


async def refused_everywhere(way, code: Code, headers) -> None:
    """Every route that needs a session gives this refusal to a request that is otherwise good."""
    for route in with_permit():
        values = bad_input.good(route)
        body = json.dumps(values).encode() if route.method == "POST" else None
        plain = {name: value for name, value in values.items() if not isinstance(value, (dict, list))}
        given = headers(route.command) if callable(headers) else dict(headers)
        given |= {"Content_Type": JSON} if body is not None else {}
        answer = await way(route.method, bad_input.target_of(route, plain if body is None else {}), body, **given)
        assert answer.problem.code is code, (route, answer)
        assert code in documented(route, answer.status), route
        if code.status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("code", "authorization"),
    [
        (Code.SESSION_MISSING, None),
        (Code.SESSION_INVALID, "Bearer"),
        (Code.SESSION_INVALID, "Bearer x"),
        (Code.SESSION_INVALID, "Bearer " + "A" * 18_000),
        (Code.SESSION_INVALID, "Basic cm9vdDpyb290"),
        (Code.SESSION_INVALID, "Bearer eyJhbGciOiJub25lIn0.e30."),
    ],
    ids=["none", "empty", "short", "long", "basic", "jwt"],
)
async def test_credentials_that_are_none(way, code, authorization):
    """Missing and foreign credentials are refused by name at every door."""
    await refused_everywhere(way, code, {} if authorization is None else {"Authorization": authorization})


async def test_a_token_with_one_letter_changed(way, operator):
    """The gatekeeper's signature covers all of it."""
    token = operator.client.session.token
    at = len(token) // 3
    forged = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
    await refused_everywhere(way, Code.SESSION_INVALID, {"Authorization": f"Bearer {forged}"})


async def test_a_closed_session(way, gone):
    """After logout the token is worth nothing anywhere."""
    token = gone.client.session.token
    await gone.client.logout()
    await refused_everywhere(way, Code.SESSION_CLOSED, {"Authorization": f"Bearer {token}"})


async def test_an_expired_session(way, operator):
    """Nor is it after the end that was asked for at the login."""
    opened = await operator.client.login(operator.toml, session_ms=400)
    await asyncio.sleep(max(0.0, opened.not_after_ms / 1000 - time.time()) + 0.05)
    await refused_everywhere(way, Code.SESSION_EXPIRED, {"Authorization": f"Bearer {opened.token}"})
    await operator.client.login(operator.toml)


async def test_a_key_bound_session_without_its_proof(house, way):
    """The token alone isn't the caller."""
    token = {"Authorization": f"Bearer {house.root.client.session.token}"}
    await refused_everywhere(way, Code.PROOF_MISSING, token)
    await refused_everywhere(way, Code.PROOF_INVALID, token | {"Sigil_Proof": ""})
    await refused_everywhere(way, Code.PROOF_INVALID, token | {"Sigil_Proof": "garbage"})
    await refused_everywhere(way, Code.PROOF_INVALID, token | {"Sigil_Proof": "A" * 17_000})


async def test_a_proof_of_something_else(house, way):
    """A proof is for one command, one body and now."""
    opened = house.root.client.session

    def proof(command: Command[Any, Any], age_ms: int = 0) -> dict[str, str]:
        made = session.prove(
            opened.signer,
            session_id=opened.session_id,
            command=command.name,
            parameters=b"{}x",
            time_ms=time.time_ns() // 1_000_000 - age_ms,
            nonce=secrets.token_hex(16),
        )
        return {"Authorization": f"Bearer {opened.token}", "Sigil_Proof": made}

    await refused_everywhere(way, Code.PROOF_INVALID, proof)
    ours = session.prove(
        opened.signer,
        session_id=opened.session_id,
        command="ping",
        parameters=b"{}",
        time_ms=time.time_ns() // 1_000_000 - 10 * session.PROOF_WINDOW_MS,
        nonce=secrets.token_hex(16),
    )
    head = {"Authorization": f"Bearer {opened.token}", "Sigil_Proof": ours, "Content_Type": JSON}
    answer = await way("POST", f"{PREFIX}ping", b"{}", **head)
    assert answer.problem.code is Code.PROOF_STALE


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Authorization", Code.SESSION_INVALID),
        ("Sigil-Proof", Code.PROOF_INVALID),
        ("Sigil-Approval", Code.BAD_INPUT),
        ("Idempotency-Key", Code.BAD_INPUT),
        ("Cookie", None),
        ("Content-Type", Code.UNSUPPORTED_MEDIA_TYPE),
        ("X-Forwarded-For", None),
        ("Sigil-Trace", None),
        ("Surprise", None),
    ],
)
async def test_heads_that_are_no_text(house, operator, header, code):
    """Bytes that are no UTF-8 in a header that is read are refused by its name; in one that isn't, they are nothing."""
    token = operator.client.session.token.encode()
    lines = {b"authorization": b"Bearer " + token, b"content-type": JSON.encode()}
    value = (
        b"Bearer \xff\xfe"
        if header == "Authorization"
        else b"sigil_session=\xff"
        if header == "Cookie"
        else b"\xff\xfe"
    )
    answer = await raw(house, b"/api/commands/memory/write", b"{", lines | {header.lower().encode(): value})
    if code is None:
        assert (answer.problem.code, answer.problem.field) == (Code.BAD_INPUT, "$")
        return
    good = json.dumps(bad_input.good(by_name("memory/write"))).encode()
    answer = await raw(house, b"/api/commands/memory/write", good, lines | {header.lower().encode(): value})
    assert (answer.problem.code, answer.problem.field) == (code, header)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (b"/api/commands/\xff", Code.BAD_INPUT),
        (b"/api/commands/ping\x00", Code.BAD_INPUT),
        (b"/api/commands/ping?\xff=\xfe", Code.BAD_INPUT),
        (b"/api/commands/%ff", Code.UNKNOWN_COMMAND),
        (b"/api/memory/read/%ff", Code.METHOD_NOT_ALLOWED),
        (b"//api/commands/ping", Code.NOT_FOUND),
        (b"http://house/api/commands/no/such", Code.UNKNOWN_COMMAND),
        (b"*", Code.BAD_INPUT),
        (b"ping", Code.BAD_INPUT),
    ],
)
async def test_targets_that_are_none(house, target, code):
    """Whatever stands where the path belongs, the answer is a refusal."""
    answer = await raw(house, target, b"{}", {b"content-type": JSON.encode()})
    assert answer.problem.code is code


@pytest.mark.parametrize("value", [b"", b" ", b"\xff", b"0" * 64, b"\xc3\xbf"])
async def test_a_csrf_token_that_is_none(house, way, operator, value):
    """Nothing that isn't the cookie's own token passes for it, not even what can't be read."""
    opened = await way("POST", "/api/session/open", await login_body(house, operator), Content_Type=JSON)
    cookie = opened.headers["Set-Cookie"].partition(";")[0].encode()
    lines = {b"cookie": cookie, b"content-type": JSON.encode(), b"x-csrf-token": value}
    answer = await raw(house, b"/api/commands/ping", b"{}", lines)
    assert (answer.problem.code, answer.problem.field) == (Code.CSRF_INVALID, "x-csrf-token")


async def raw(house, path: bytes, body: bytes, lines: Mapping[bytes, bytes]) -> Answer:
    """A request whose head is these very bytes."""
    host, _, port = house.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = {b"host": b"house", b"connection": b"close", b"content-length": str(len(body)).encode(), **lines}
    told = b"".join(name + b": " + value + b"\r\n" for name, value in head.items())
    writer.write(b"POST " + path + b" HTTP/1.1\r\n" + told + b"\r\n" + body)
    await writer.drain()
    head_bytes, _, answered = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    status, *rest = head_bytes.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    return Answer(status=int(status.split()[1]), headers=headers, body=answered)


def by_name(name: str) -> Route:
    """The general route of a command."""
    return next(route for route in ROUTES if route.path == PREFIX + name)


@pytest.mark.parametrize("name", ["no/such", "", "canon/append", "gate/refusals", "ping/", "Ping", "%70ing", "../x"])
async def test_names_that_no_command_has(way, operator, name):
    """Unknown and internal commands are answered alike, to everyone."""
    for headers in ({}, {"Authorization": f"Bearer {operator.client.session.token}"}):
        answer = await way("POST", PREFIX + name, b"{}", Content_Type=JSON, **headers)
        assert answer.problem.code is Code.UNKNOWN_COMMAND


UNKNOWN_AS_OPERATOR = [
    (canon.GET, canon.Get(id=ABSENT), Code.NOT_FOUND),
    (canon.GET, canon.Get(hash="0" * 64), Code.NOT_FOUND),
    (canon.GET, canon.Get(seq=10**12), Code.BEYOND_HEAD),
    (canon.GET, canon.Get(), Code.BAD_INPUT),
    (canon.GET, canon.Get(id="x" * 36), Code.NOT_FOUND),
    (canon.AUDIT_GET, canon.AuditGet(id=ABSENT), Code.NOT_FOUND),
    (canon.AUDIT_GET, canon.AuditGet(id=f"{ABSENT}.0"), Code.NOT_FOUND),
    (canon.AUDIT_GET, canon.AuditGet(id="x" * 36), Code.NOT_FOUND),
    (canon.PROOF, canon.Prove(id=ABSENT), Code.NOT_FOUND),
    (canon.PROOF, canon.Prove(id="x" * 36), Code.NOT_FOUND),
    (canon.CONSISTENCY, canon.Consistency(old=10**12), Code.BEYOND_HEAD),
    (canon.TILE, canon.LogPart(path="tile/0/999"), Code.NOT_FOUND),
    (canon.LIST, canon.ListRecords(cursor="garbage"), Code.BAD_INPUT),
    (canon.LIST, canon.ListRecords(since="yesterday"), Code.BAD_INPUT),
    (knowledge.MEMORY_READ, knowledge.MemoryRead(key="no-such"), Code.NOT_FOUND),
    (knowledge.MEMORY_LIST, knowledge.MemoryList(cursor="garbage"), Code.BAD_INPUT),
    (knowledge.MEMORY_LIST, knowledge.MemoryList(since="yesterday"), Code.BAD_INPUT),
    (knowledge.USER_READ, knowledge.UserRead(id=ABSENT), Code.NOT_FOUND),
    (knowledge.USER_READ, knowledge.UserRead(id="x" * 36), Code.NOT_FOUND),
    (knowledge.USER_LIST, knowledge.UserList(cursor="garbage"), Code.BAD_INPUT),
    (knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="k", text="t", id="x" * 36), Code.BAD_INPUT),
    (knowledge.USER_WRITE, knowledge.UserWrite(key="k"), Code.BAD_INPUT),
    (quorum.PROPOSAL, quorum.ReadProposal(proposal_id=ABSENT), Code.NOT_FOUND),
    (knowledge.MEMORY_LIST, knowledge.MemoryList(wait_for=10**12), Code.BEYOND_HEAD),
]
UNKNOWN_AS_ROOT = [
    (license.REVOKE, license.RevokeLicense(license_id=ABSENT), Code.LICENSE_NOT_FOUND),
    (license.REVOKE, license.RevokeLicense(license_id="x" * 36), Code.LICENSE_NOT_FOUND),
    (license.LIST, license.ListLicenses(cursor="garbage"), Code.BAD_INPUT),
    (license.LIST, license.ListLicenses(wait_for=10**12), Code.BEYOND_HEAD),
    (quorum.PROPOSALS, quorum.ListProposals(wait_for=10**12), Code.BEYOND_HEAD),
    (quorum.COMMIT, quorum.ProposalId(proposal_id=ABSENT), Code.NOT_FOUND),
    (quorum.WITHDRAW, quorum.ProposalId(proposal_id=ABSENT), Code.NOT_FOUND),
    (quorum.DRAFT, quorum.MakeDraft(kind="no_such", payload={}), Code.KIND_UNKNOWN),
    (quorum.DRAFT, quorum.MakeDraft(kind="quorum_policy", payload={}), Code.BAD_INPUT),
    (quorum.DRAFT, quorum.MakeDraft(kind="quorum_policy", payload={"surprise": 1}), Code.BAD_INPUT),
    (
        license.CREATE,
        license.CreateLicense(owner_id="x", owner_name="X", loa=Loa.ROOT, expires_at="2035-01-01T00:00:00.000Z"),
        Code.ROOT_IS_SINGLE,
    ),
    (
        license.CREATE,
        license.CreateLicense(owner_id="x", owner_name="X", loa=Loa.GUEST, expires_at="2035-01-01 at noon? or"),
        Code.BAD_INPUT,
    ),
]
UNKNOWN_AS_STRANGER = [
    (quorum.ATTEST, quorum.Attest(proposal_id=ABSENT, witness_id=WITNESS, signature="A" * 86 + "=="), Code.NOT_FOUND),
    (quorum.ATTEST, quorum.Attest(proposal_id="x" * 36, witness_id=WITNESS, signature="A" * 86 + "=="), Code.NOT_FOUND),
    (gatekeeper.OPEN, gatekeeper.OpenSession(license="", nonce="garbage"), Code.NONCE_INVALID),
    (gatekeeper.CLOSE, gatekeeper.SessionCall(session="garbage"), Code.SESSION_INVALID),
    (gatekeeper.AUTHORIZE, gatekeeper.Authorize(session="x", command="ping", parameters="{"), Code.SESSION_INVALID),
    (
        license.BOOTSTRAP,
        license.Bootstrap(token="t", owner_id="root", owner_name="Root", root_key="01" * 32),
        Code.ALREADY_BOOTSTRAPPED,
    ),
    (canon.TILE, canon.LogPart(path="../keys"), Code.NOT_FOUND),
]


@pytest.mark.parametrize(
    ("who", "command", "request_", "code"),
    [
        *(("operator", *one) for one in UNKNOWN_AS_OPERATOR),
        *(("root", *one) for one in UNKNOWN_AS_ROOT),
        *(("stranger", *one) for one in UNKNOWN_AS_STRANGER),
    ],
    ids=lambda value: value.name if isinstance(value, Command) else None,
)
async def test_things_that_are_not_there(house, operator, who, command, request_, code):
    """Well-formed names of nothing, and texts that only the service can read, are refused by it with the field at fault."""
    stranger = await house.client()
    client = {"operator": operator.client, "root": house.root.client, "stranger": stranger}[who]
    with pytest.raises(Refused) as caught:
        await client.call(command, request_)
    assert caught.value.code is code
    assert code is not Code.BAD_INPUT or (caught.value.field or "").startswith("$")
    assert code in documented(next(route for route in ROUTES if route.command is command), code.status)
