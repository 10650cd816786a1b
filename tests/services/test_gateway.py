"""The gateway over real HTTP, with a real gate behind it: what a caller can do, and what an attacker can't."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
import socket
import sys
import time
import types
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import tomli_w
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import docs_page, health, kept, limits, parameters, router, sessions
from sigilcore import canonical, ids, session, tiles
from sigilcore.access import Loa
from sigilcore.contracts import canon, catalogue, house, knowledge
from sigilcore.contracts.command import Admission
from sigilcore.refusals import Code, Refused
from sigilrun import http
from sigilrun.faces import examples, generate, openapi, routes
from tests.services.gateway_world import CANARY, Face, World, bearer, raw, token_of, world

WRITE = {"key": "greeting", "text": "Good morning."}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", name="home")
async def _home(tmp_path_factory) -> AsyncIterator[World]:
    """One house for all tests of this file."""
    async with world(tmp_path_factory.mktemp("gateway") / "house") as one:
        yield one


@pytest.fixture(name="face")
async def _face(home: World) -> AsyncIterator[Face]:
    """A gateway of the test's own."""
    async with home.gateway() as one:
        yield one


@contextlib.contextmanager
def refused(code: Code, field: str | None = None) -> Iterator[None]:
    with pytest.raises(Refused) as caught:
        yield
    assert (caught.value.code, caught.value.field) == (code, field)


# An ordinary day


async def test_a_browser_logs_in_writes_reads_and_leaves(home: World, face: Face) -> None:
    """Cookie and CSRF token carry a whole session; after it the cookie opens nothing."""
    _, cookie = await face.login(home.bob)
    csrf = await face.csrf(cookie)
    written = await face.send("POST", "/api/memory/write", WRITE, cookie=cookie, x_csrf_token=csrf)
    assert written.status == 200, written.body
    path = f"/api/memory/read/greeting?wait_for={written.json['seq']}"
    assert (await face.send("GET", path, cookie=cookie)).json["text"] == "Good morning."
    left = await face.send("POST", "/api/session/close", cookie=cookie, x_csrf_token=csrf)
    assert (left.status, left.cookies["sigil_session"]["max-age"]) == (200, "0")
    assert (await face.send("GET", "/api/memory/list", cookie=cookie)).code == "SESSION_MISSING"


async def test_a_key_bound_caller_signs_every_call(home: World, face: Face) -> None:
    """Certificate, session key and proofs pass through; what the gateway hands on is what was signed."""
    async with http.Client(face.address) as ada:
        await ada.login(home.ada.toml, owner=home.ada.signer)
        written = await ada.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="a", text="b"))
        read = await ada.call(knowledge.MEMORY_READ, knowledge.MemoryRead(key="a", wait_for=written.seq))
        assert (read.text, read.owner) == ("b", "ada")
        await ada.logout()


async def test_the_very_bytes_are_judged(home: World, face: Face) -> None:
    """A body in no canonical form is passed on byte for byte: a proof over those bytes counts, over others it doesn't."""
    async with http.Client(face.address) as ada:
        opened = await ada.login(home.ada.toml, owner=home.ada.signer)
        body = b'{ "text": "spaced",\n "key": "odd"  }'
        assert json.loads(await ada.send(knowledge.MEMORY_WRITE, body))["key"] == "odd"
        assert opened.signer is not None
        answer = await face.call(
            "memory/write",
            canonical.encode(json.loads(body)),
            authorization=bearer(opened.token),
            sigil_proof=prove(opened, "memory/write", body),
        )
        assert answer.code == "PROOF_INVALID"


async def test_a_get_is_signed_as_its_canonical_parameters(home: World, face: Face) -> None:
    """Numbers are numbers and only given fields count, so a client can sign a GET before it sends it."""
    async with http.Client(face.address) as ada:
        opened = await ada.login(home.ada.toml, owner=home.ada.signer)
        proof = prove(opened, "memory/list", b'{"limit":7,"prefix":"x y"}')
        answer = await face.send(
            "GET", "/api/memory/list?prefix=x+y&limit=7", authorization=bearer(opened.token), sigil_proof=proof
        )
        assert answer.status == 200, answer.body


def prove(opened: http.Session, command: str, body: bytes) -> str:
    assert opened.signer is not None
    return session.prove(
        opened.signer,
        session_id=opened.session_id,
        command=command,
        parameters=body,
        time_ms=time.time_ns() // 1_000_000,
        nonce=os.urandom(16).hex(),
    )


async def test_an_idempotency_key_is_the_records_id(home: World, face: Face) -> None:
    """The same key and body give the same record, whoever asks twice."""
    token, _ = await face.login(home.bob)
    key = ids.new()
    sent = {"authorization": bearer(token), "idempotency_key": key}
    first = await face.call("memory/write", {"key": "once", "text": "x"}, **sent)
    again = await face.call("memory/write", {"key": "once", "text": "x", "id": key}, **sent)
    assert first.json["id"] == again.json["id"] == key
    assert (first.json["existing"], again.json["existing"]) == (False, True)
    assert first.json["seq"] == again.json["seq"]


@pytest.mark.parametrize(
    ("command", "body", "key", "field"),
    [
        ("memory/write", WRITE, "not-an-id", "Idempotency-Key"),
        ("memory/write", WRITE, "01890A5D-AC96-774B-BCCE-B302099A8057", "Idempotency-Key"),
        ("memory/write", WRITE, "0d4e2a5c-7d0b-4f0e-9d2b-2a6f4f7f9a11", "Idempotency-Key"),
        ("memory/write", WRITE | {"id": "01890a5d-ac96-774b-bcce-b302099a8057"}, ids.new(), "$.id"),
        ("memory/list", {}, ids.new(), "Idempotency-Key"),
        ("canon/get", {}, ids.new(), "Idempotency-Key"),
    ],
    ids=["no-id", "upper-case", "another-version", "body-says-another", "no-id-field", "the-id-of-what-is-read"],
)
async def test_a_key_that_names_no_record_is_refused(face: Face, command, body, key, field) -> None:
    """Idempotency-Key is a UUIDv7 that agrees with the body, on a command that writes one."""
    answer = await face.call(command, body, idempotency_key=key)
    assert (answer.status, answer.code, answer.json["field"]) == (400, "BAD_INPUT", field)


# Cookies


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(home: World) -> None:
    """HttpOnly, SameSite=Strict, for the whole site, and over TLS Secure and of this host alone (`__Host-`)."""
    for secure, called in ((True, "__Host-sigil_session"), (False, "sigil_session")):
        async with home.gateway(cookie_secure=secure) as face:
            nonce = (await face.call("session/challenge")).json["nonce"]
            opened = await face.call("session/open", {"license": home.bob.toml, "nonce": nonce})
            (morsel,) = opened.cookies.values()
            assert morsel.key == called
            said = (morsel["httponly"], morsel["samesite"], morsel["path"], bool(morsel["secure"]), morsel["domain"])
            assert said == (True, "Strict", "/", secure, "")
            assert re.fullmatch(r"[A-Za-z0-9_-]{43}", morsel.value)  # 256 bits
            assert 0 < int(morsel["max-age"]) <= 12 * 3600


async def test_a_planted_cookie_is_not_adopted(home: World, face: Face) -> None:
    """Whoever knows the cookie from before the login knows nothing after it."""
    planted = "sigil_session=" + "A" * 43
    _, cookie = await face.login(home.bob, cookie=planted)
    assert cookie != planted
    assert (await face.send("GET", "/api/memory/list", cookie=planted)).code == "SESSION_MISSING"


async def test_a_new_login_ends_the_old_cookie(home: World, face: Face) -> None:
    """session/open with a live cookie gives a new id, and the old one stands for nothing."""
    _, old = await face.login(home.bob)
    csrf = await face.csrf(old)
    _, new = await face.login(home.bob, cookie=old, x_csrf_token=csrf)
    assert (await face.send("GET", "/api/memory/list", cookie=old)).code == "SESSION_MISSING"
    assert (await face.send("GET", "/api/memory/list", cookie=new)).status == 200


async def test_the_header_wins_over_the_cookie(home: World, face: Face) -> None:
    """With both, the caller is the header's, and no CSRF token is asked for: a browser doesn't send that header by itself."""
    token, _ = await face.login(home.eve)
    _, cookie = await face.login(home.bob)
    answer = await face.call("ping", authorization=bearer(token), cookie=cookie)
    assert answer.json["owner_id"] == "eve"


async def test_a_closed_session_is_closed_everywhere(home: World, face: Face) -> None:
    """Closing by token takes the cookie of that session too; closing nothing is refused."""
    token, cookie = await face.login(home.bob)
    assert (await face.call("session/close", {"session": token})).status == 200
    assert (await face.send("GET", "/api/memory/list", cookie=cookie)).code == "SESSION_MISSING"
    assert (await face.call("ping", authorization=bearer(token))).code == "SESSION_CLOSED"
    assert (await face.call("session/close")).code == "SESSION_MISSING"


async def test_a_cookie_whose_session_the_gate_ended_is_forgotten(
    home: World, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the change event got lost: the gate says the session is closed, and from then on the cookie is nobody's."""
    monkeypatch.setattr(face.gateway._cookies, "end_session", lambda _: None)
    token, cookie = await face.login(home.bob)
    async with home.gateway() as other:
        assert (await other.call("session/close", {"session": token})).status == 200
    assert (await face.send("GET", "/api/memory/list", cookie=cookie)).code == "SESSION_CLOSED"
    assert (await face.send("GET", "/api/memory/list", cookie=cookie)).code == "SESSION_MISSING"


def test_the_cookie_map_is_bounded_and_forgets_in_time() -> None:
    """The oldest gives way, and an id is worth nothing once its session is over."""
    cookies = sessions.Cookies(limit=2, secure=True)
    tokens = [token_of(ids.new(), ids.new()) for n in (1, 2, 3)]
    first, second, third = (cookies.open(token, not_after_ms=1000 * n) for n, token in enumerate(tokens, 1))
    assert [cookies.find(one, 0) for one in (first, second, third)] == [None, *tokens[1:]]
    assert cookies.find(second, 2000) is None
    assert cookies.find(second, 0) is None
    assert cookies.find(third, 2999) == tokens[2]
    cookies.forget_session(tokens[2])
    assert cookies.find(third, 0) is None


# CSRF


@pytest.mark.parametrize(
    "shown", [None, "", "0" * 64, "é", "other"], ids=["none", "empty", "zeros", "not-ascii", "another's"]
)
async def test_another_site_cannot_act_for_a_browser(home: World, face: Face, shown: str | None) -> None:
    """An unsafe request that comes with the cookie shows that cookie's own token, or is refused."""
    _, cookie = await face.login(home.bob)
    if shown == "other":
        shown = await face.csrf((await face.login(home.eve))[1])
    answer = await face.call("memory/write", WRITE, cookie=cookie, x_csrf_token=shown)
    assert (answer.status, answer.code) == (403, "CSRF_INVALID")


async def test_every_post_by_cookie_is_guarded(home: World, face: Face) -> None:
    """No command is left out: not those without permit, not even closing."""
    _, cookie = await face.login(home.bob)
    for route in routes.of_commands():
        if route.method == "POST":
            assert (await face.send("POST", route.path, cookie=cookie)).code == "CSRF_INVALID", route.path


async def test_reading_by_cookie_needs_no_csrf_token(home: World, face: Face) -> None:
    """A safe request changes nothing."""
    _, cookie = await face.login(home.bob)
    assert (await face.send("GET", "/api/trust/status", cookie=cookie)).status == 200


async def test_a_csrf_token_belongs_to_a_live_cookie(home: World, face: Face) -> None:
    """It is the same each time, and there is none without the cookie."""
    token, cookie = await face.login(home.bob)
    assert await face.csrf(cookie) == await face.csrf(cookie)
    for headers in ({}, {"cookie": "sigil_session=unknown"}, {"authorization": bearer(token)}):
        assert (await face.send("POST", "/api/csrf/token", **headers)).code == "SESSION_MISSING"
    assert (await face.send("POST", "/api/csrf/token", {"x": 1}, cookie=cookie)).code == "BAD_INPUT"


# Whose call


async def test_a_stranger_is_told_at_once(face: Face) -> None:
    """A command that needs a permit says SESSION_MISSING, and how to authenticate."""
    answer = await face.call("memory/write", WRITE)
    assert (answer.status, answer.code) == (401, "SESSION_MISSING")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "shown",
    ["Basic YWRhOmE=", "Bearer", "Bearer  ", "Bearer " + "a" * 17_000, "Bearer forged.token"],
    ids=["basic", "empty", "blank", "too-long", "forged"],
)
async def test_what_is_no_session_token_opens_nothing(face: Face, shown: str) -> None:
    """Neither another scheme nor a token that the gatekeeper didn't sign."""
    answer = await face.call("ping", authorization=shown)
    assert (answer.status, answer.code) == (401, "SESSION_INVALID")


async def test_the_gates_no_is_passed_on_whole(home: World, face: Face) -> None:
    """A denial keeps its code, next step, and the decision that recorded it."""
    token, _ = await face.login(home.eve)
    answer = await face.call("memory/write", WRITE, authorization=bearer(token))
    problem = answer.json
    assert (answer.status, problem["code"], answer.headers["Content-Type"]) == (
        403,
        "LOA_TOO_LOW",
        "application/problem+json",
    )
    assert problem["type"] == "urn:sigil:refusal:LOA_TOO_LOW"
    assert problem["title"] == "LOA_TOO_LOW"
    assert problem["next_step"] == Code.LOA_TOO_LOW.next_step
    assert problem["trace_id"] == answer.headers["Sigil-Trace"]
    assert "decision" in problem["info"]


@pytest.mark.parametrize("command", catalogue.COMMANDS.values(), ids=lambda one: one.name)
async def test_the_catalogue_is_offered_and_nothing_else(face: Face, command) -> None:
    """Every public command has its route; those that need a permit ask for a session; internal ones don't exist."""
    answer = await face.call(command.name, _example(command))
    if command.internal:
        assert answer.code == "UNKNOWN_COMMAND"
    elif command.admission is Admission.PERMIT:
        assert answer.code == "SESSION_MISSING", answer.body
    else:
        assert answer.code not in {"UNKNOWN_COMMAND", "NOT_FOUND", "BAD_INPUT"} or command.name in {
            "quorum/attest",
            "log/tile",
        }, answer.body


def _example(command) -> object:
    return {} if command.internal else examples.request(command)


# Bodies


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[1]", "$"),
        (b"3", "$"),
        (b"", "$"),
        (b"{", "$"),
        (b'{"key":"a","key":"b","text":"t"}', "$"),
        (b'{"key":"a","text":NaN}', "$"),
        (b'{"key":"a","text":"\\ud800"}', "$"),
        (b'{"key":"a","text":"\xff"}', "$"),
        (b'{"key":"a","text":' + b"[" * 70 + b"]" * 70 + b"}", "$"),
        (b'{"key":1,"text":"t"}', "$.key"),
        (b'{"key":"a\\n","text":"t"}', "$.key"),
        (b'{"key":"a","text":"t","tags":["x",2]}', "$.tags[1]"),
        (b'{"key":"a","text":"t","sudo":true}', "$"),
        (b'{"key":"a"}', "$"),
    ],
    ids=[
        "list", "number", "nothing", "cut", "key-twice", "nan", "lone-surrogate", "not-utf8", "deep",
        "wrong-type", "newline-after-pattern", "wrong-type-inside", "unknown-field", "missing-field",
    ],
)  # fmt: skip
async def test_a_body_that_does_not_fit_is_refused_by_its_path(face: Face, body: bytes, field: str) -> None:
    """Strict I-JSON, then the Struct, before anybody else sees it."""
    answer = await face.call("memory/write", body)
    assert (answer.status, answer.code) == (400, "BAD_INPUT"), answer.body
    assert answer.json["field"].startswith(field)


async def test_an_integer_beyond_json_is_refused(face: Face) -> None:
    """What another reader would round is no parameter."""
    answer = await face.call("canon/consistency", b'{"old":9007199254740993}')
    assert answer.code == "BAD_INPUT"


async def test_a_body_has_a_bound(face: Face) -> None:
    """One MiB, whether the head tells the length or not; nothing beyond it is kept."""
    body = json.dumps({"key": "k", "text": "x" * 1_048_577}).encode()
    assert (await face.call("memory/write", body)).code == "BODY_TOO_LARGE"
    head = b"POST /api/commands/ping HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    assert b" 413 " in (await raw(face, head + chunk * 18)).splitlines()[0]


async def test_an_announced_flood_is_refused_before_it_comes(face: Face) -> None:
    """The length in the head is enough."""
    head = b"POST /api/commands/ping HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999999\r\n\r\n"
    assert b" 413 " in (await raw(face, head)).splitlines()[0]


async def test_a_body_has_a_time(home: World) -> None:
    """Who sends a byte now and then holds no place for long."""
    async with home.gateway(body_timeout_s=1) as face:
        head = b"POST /api/commands/ping HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        assert b" 400 " in (await raw(face, head)).splitlines()[0]


@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
    ],
)
async def test_only_json_is_a_body(face: Face, media: str) -> None:
    """What a plain form of another site could send is no call."""
    answer = await face.call("session/challenge", b"{}", content_type=media)
    assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_compressed_body_is_not_unpacked(face: Face) -> None:
    """A small body can't become a large one."""
    answer = await face.call("session/challenge", gzip.compress(b"{}"), content_encoding="gzip")
    assert answer.code == "UNSUPPORTED_MEDIA_TYPE"


async def test_an_empty_body_asks_with_no_parameters(face: Face) -> None:
    """`{}` is what is judged and sent."""
    assert (await face.send("POST", "/api/session/challenge")).status == 200


async def test_a_client_may_ask_before_it_sends(face: Face) -> None:
    """Expect: 100-continue is answered, and then the call."""
    head = (
        b"POST /api/session/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    answer = await raw(face, head + b"{}")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


# Queries and paths


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=1&limit=1", "$.limit"),
        ("limit=ten", "$.limit"),
        ("limit=1_0", "$.limit"),
        ("limit=%D9%A3", "$.limit"),
        ("limit=+5", "$.limit"),
        ("limit=05", "$.limit"),
        ("limit=0", "$.limit"),
        ("limit=501", "$.limit"),
        ("sudo=1", "$"),
        ("prefix=%FF", None),
        ("prefix", None),
        ("&".join(f"f{n}=1" for n in range(33)), None),
    ],
)
async def test_a_query_that_does_not_fit_is_refused(face: Face, query: str, field: str | None) -> None:
    """Once each, known, typed by the Struct, digits only where there is a number."""
    answer = await face.send("GET", f"/api/memory/list?{query}")
    assert (answer.status, answer.code, answer.json.get("field")) == (400, "BAD_INPUT", field)


async def test_a_get_has_no_body(face: Face) -> None:
    """A body on a GET would be bytes that nobody judges."""
    assert (await face.send("GET", "/api/memory/list", {})).code == "BAD_INPUT"


async def test_a_field_in_the_path_is_one_segment(home: World, face: Face) -> None:
    """An escaped slash belongs to the value; a plain one makes another path; the query can't say it again."""
    token, _ = await face.login(home.bob)
    headers = {"authorization": bearer(token)}
    seq = (await face.call("memory/write", {"key": "a/b", "text": "deep"}, **headers)).json["seq"]
    read = await face.send("GET", f"/api/memory/read/a%2Fb?wait_for={seq}", **headers)
    assert read.json["text"] == "deep"
    assert (await face.send("GET", "/api/memory/read/a/b", **headers)).code == "NOT_FOUND"
    assert (await face.send("GET", "/api/memory/read/a?key=b", **headers)).json["field"] == "$.key"
    assert (await face.send("GET", "/api/memory/read/%FF", **headers)).code == "BAD_INPUT"


@given(st.dictionaries(st.sampled_from(["prefix", "tag", "cursor"]), st.text(min_size=1, max_size=20), max_size=3))
def test_any_text_crosses_a_query_whole(fields: dict[str, str]) -> None:
    """What a client encodes is what the gate judges, whatever the characters."""
    with contextlib.suppress(UnicodeEncodeError):
        query = urllib.parse.urlencode(fields)
        assert json.loads(parameters.of_query(knowledge.MEMORY_LIST, {}, query)) == fields


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_a_body(data: bytes) -> None:
    """A body is read or refused, and what is read is passed on unchanged."""
    try:
        assert parameters.of_body(knowledge.MEMORY_WRITE, data, {}, None) == data
    except Refused as no:
        assert no.code is Code.BAD_INPUT


# Routes


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/commands/", "/api/commands/nothing", "/api/commands/canon/append", "/api/memory/write/", "//api/memory/write",
     "/api/../api/memory/write", "/API/memory/write", "/api/memory%2Fwrite", "/api/canon/proof/"],
)  # fmt: skip
async def test_an_unknown_path_is_a_problem_too(face: Face, path: str) -> None:
    """One spelling a route; nothing is normalised into one."""
    answer = await face.send("POST", path, {})
    meant = "UNKNOWN_COMMAND" if path.startswith("/api/commands/") else "NOT_FOUND"
    assert (answer.status, answer.code) == (404, meant)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/memory/write", "POST"),
        ("DELETE", "/api/commands/ping", "POST"),
        ("OPTIONS", "/api/commands/ping", "POST"),
        ("POST", "/api/memory/list", "GET, HEAD"),
        ("PUT", "/api/memory/read/x", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_which_there_are(face: Face, method: str, path: str, allow: str) -> None:
    """405 with Allow; no CORS preflight is ever granted."""
    answer = await face.send(method, path)
    assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "METHOD_NOT_ALLOWED", allow)
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_head_is_get_without_its_body(face: Face) -> None:
    """For those who only look."""
    answer = await face.send("HEAD", "/openapi.json")
    assert (answer.status, answer.body) == (200, b"")


def test_fixed_paths_come_before_patterns() -> None:
    """`/api/audit/list` is no record's id, and entries are no hash tile."""
    table = router.Router(routes.ROUTES)
    assert table.find("GET", "/api/audit/list").route.name == "audit/list"
    assert table.find("GET", "/api/audit/x").fields == {"id": "x"}
    assert table.find("GET", "/log/default/tile/entries/000").route.command is canon.ENTRIES
    assert table.find("GET", "/log/default/tile/0/x001/234.p/5").fields == {
        "tenant": "default",
        "path": "0/x001/234.p/5",
    }


# Limits


async def test_an_address_has_its_limit(home: World) -> None:
    """Beyond it 429, with the seconds to wait; health is answered all the same."""
    async with home.gateway(rate_limit_per_minute=3, now_s=lambda: 600.0) as face:
        answers = [await face.send("GET", "/openapi.json") for _ in range(4)]
        assert [one.status for one in answers] == [200, 200, 200, 429]
        assert [one.headers["RateLimit-Remaining"] for one in answers] == ["2", "1", "0", "0"]
        assert answers[3].code == "RATE_LIMITED"
        assert answers[3].headers["RateLimit-Limit"] == "3"
        assert 1 <= int(answers[3].headers["Retry-After"]) <= 120
        assert answers[3].json["info"]["retry_after_s"] == int(answers[3].headers["Retry-After"])
        assert (await face.send("GET", "/healthz")).status == 200


async def test_a_session_has_a_limit_of_its_own(home: World) -> None:
    """Who shows a session that the gate took leaves the address's count alone, and is stopped by its own."""
    async with home.gateway(rate_limit_per_minute=3, session_rate_per_minute=2, now_s=lambda: 600.0) as face:
        token, _ = await face.login(home.bob)
        answers = [await face.call("ping", authorization=bearer(token)) for _ in range(3)]
        assert [one.status for one in answers] == [200, 200, 429]
        assert answers[0].headers["RateLimit-Limit"] == "2"
        assert (await face.send("GET", "/openapi.json")).headers["RateLimit-Remaining"] == "0"


async def test_guessing_tokens_gains_nothing_by_changing_the_guess(home: World) -> None:
    """A token that the gate never took counts for the address."""
    async with home.gateway(rate_limit_per_minute=3, now_s=lambda: 600.0) as face:
        answers = [await face.call("ping", authorization=bearer(f"guess{n}")) for n in range(4)]
        assert [one.code for one in answers] == ["SESSION_INVALID"] * 3 + ["RATE_LIMITED"]


async def test_forwarded_headers_of_strangers_are_hearsay(home: World) -> None:
    """Nobody gets a fresh count by naming another address."""
    async with home.gateway(rate_limit_per_minute=2, now_s=lambda: 600.0) as face:
        answers = [await face.send("GET", "/openapi.json", x_forwarded_for=f"203.0.113.{n}") for n in range(3)]
        assert [one.status for one in answers] == [200, 200, 429]


async def test_a_trusted_proxy_names_the_caller(home: World) -> None:
    """The address that the proxy saw is counted; what the caller claimed before it is not."""
    async with home.gateway(rate_limit_per_minute=2, trusted_proxies=("127.0.0.0/8",), now_s=lambda: 600.0) as face:
        for last in (5, 6):
            sent = [f"198.51.100.{n}, 203.0.113.{last}" for n in range(3)]
            answers = [await face.send("GET", "/openapi.json", x_forwarded_for=one) for one in sent]
            assert [one.status for one in answers] == [200, 200, 429]


@pytest.mark.parametrize(
    ("peer", "forwarded", "who"),
    [
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, junk"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["2001:db8::5"], "2001:db8::5"),
        (None, ["203.0.113.9"], "unknown"),
    ],
)
def test_whom_a_proxy_speaks_for(peer: str | None, forwarded: list[str], who: str) -> None:
    """From the right, as far as there are trusted proxies."""
    assert limits.client_address(peer, forwarded, limits.networks(["10.0.0.0/8"])) == who


def test_one_owner_of_many_addresses_is_one() -> None:
    """Of IPv6 the /64 is counted."""
    assert limits.counted("2001:db8::1") == limits.counted("2001:db8::ffff") != limits.counted("2001:db8:0:1::1")
    assert limits.counted("192.0.2.1") != limits.counted("192.0.2.2")


def test_counts_are_bounded(tmp_path: Path) -> None:
    """Many addresses cost neither memory nor disk; the one that came last is still counted."""
    counts = kept.Kept(tmp_path)
    rates = limits.Rates(counts, address_per_minute=1, session_per_minute=1)
    for n in range(limits.KEYS + 50):
        rates.count(address=f"a{n}", session=None, now_s=60.0)
    assert counts.size("address") == limits.KEYS
    assert rates.count(address=f"a{limits.KEYS + 49}", session=None, now_s=60.0).refused
    counts.close()
    again = kept.Kept(tmp_path)
    assert again.size("address") == limits.KEYS
    again.close()


async def test_a_full_gateway_says_so_at_once(home: World) -> None:
    """BUSY beyond the bound; health is answered, and what is in flight ends well."""
    async with home.gateway(max_in_flight=1) as face:
        token, _ = await face.login(home.bob)
        home.slow.clear()
        before = home.slow_calls
        slow = asyncio.create_task(face.call("statistics/records", authorization=bearer(token)))
        while home.slow_calls == before:
            await asyncio.sleep(0.005)
        busy = await face.call("ping", authorization=bearer(token))
        assert (busy.status, busy.code, busy.headers["Retry-After"]) == (503, "BUSY", "1")
        assert (await face.send("GET", "/healthz")).status == 200
        home.slow.set()
        assert (await slow).status == 200


# Faults and broken requests


async def test_a_fault_is_a_trace_id_and_nothing_else(home: World, face: Face) -> None:
    """What broke, and how, stays in the house."""
    token, _ = await face.login(home.bob)
    answer = await face.call("projection/status", authorization=bearer(token))
    trace_id = answer.headers["Sigil-Trace"]
    assert answer.json == {"type": "urn:sigil:fault", "title": "FAULT", "status": 500, "trace_id": trace_id}
    assert CANARY.encode() not in answer.body


async def test_a_part_that_is_away_is_unavailable(home: World, face: Face) -> None:
    """Nobody answers for the quorum here."""
    token, _ = await face.login(home.bob)
    answer = await face.call("witness/list", authorization=bearer(token))
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "UNAVAILABLE", "1")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(200)) + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer canary-7f3a9c\r\n\r\n",
    ],
    ids=["tls", "version", "long-line", "long-header", "many-headers", "two-lengths", "space-before-colon"],
)
async def test_what_is_no_http_gets_a_clean_400(face: Face, data: bytes) -> None:
    """A problem document that repeats nothing, and the connection ends."""
    head, _, body = (await raw(face, data)).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), head[:80]
    assert json.loads(body)["code"] == "BAD_INPUT"
    assert b"canary" not in body
    assert b"aaaa" not in body


async def test_a_body_that_breaks_off_harms_nobody(face: Face) -> None:
    """Bad chunks are refused, and the next connection is served."""
    head = b"POST /api/session/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 400 " in (await raw(face, head + b"zz\r\n{}\r\n")).splitlines()[0]
    assert (await face.send("POST", "/api/session/challenge")).status == 200


# What browsers are told


@pytest.mark.parametrize(
    "path", ["/api/trust/status", "/nothing", "/healthz", "/docs", "/openapi.json", "/log/default/checkpoint"]
)
async def test_every_answer_is_hardened(face: Face, path: str) -> None:
    """No sniffing, framing, referrers; scripts from nowhere."""
    headers = (await face.send("GET", path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "script-src" not in headers["Content-Security-Policy"]
    assert headers["Server"] == "sigil"
    assert re.fullmatch("[0-9a-f]{32}", headers["Sigil-Trace"])


async def test_private_answers_are_kept_nowhere(home: World, face: Face) -> None:
    """Everything below /api is no-store, refusals included."""
    token, _ = await face.login(home.bob)
    for sent in ({}, {"authorization": bearer(token)}):
        assert (await face.send("GET", "/api/memory/list", **sent)).headers["Cache-Control"] == "no-store"


# The log as files


async def test_the_log_is_served_as_files(home: World, face: Face) -> None:
    """Checkpoint for a second, hash tiles for ever, with the types of C2SP; anyone may read them."""
    note = await face.send("GET", "/log/default/checkpoint")
    assert note.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert note.headers["Cache-Control"] == "public, max-age=1"
    size = int(note.body.split(b"\n")[1])
    tile = await face.send("GET", f"/log/default/{tiles.path(0, 0, size)}")
    assert (tile.status, tile.body) == (200, b"".join(home.canon.leaves(size)))
    assert tile.headers["Content-Type"] == "application/octet-stream"
    assert tile.headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path", ["other/checkpoint", "default/tile/0/0", "default/tile/00/000", "default/tile/0/..%2f..", "default/tile/0/000.p/0",
             "default/tile/0/x999/999", "default/tile/64/000", "default/tile/0/%30%30%30.p/3", "default/tile/0/000.p/3?x",
             "d%65fault/tile/0/000.p/3"],
)  # fmt: skip
async def test_what_is_no_file_of_the_log_is_not_found(face: Face, path: str) -> None:
    """Another tenant, another spelling, a tile that isn't there."""
    assert (await face.send("GET", f"/log/{path}")).code == "NOT_FOUND"


async def test_entries_are_for_those_who_may(home: World, face: Face) -> None:
    """Sealed headers tell who was active: a mentor reads them, an operator doesn't, and nobody on the way keeps them."""
    path = f"/log/default/{tiles.path('entries', 0, 3)}"
    assert (await face.send("GET", path)).code == "SESSION_MISSING"
    token, _ = await face.login(home.bob)
    assert (await face.send("GET", path, authorization=bearer(token))).code == "LOA_TOO_LOW"
    async with http.Client(face.address) as mia:
        opened = await mia.login(home.mia.toml, owner=home.mia.signer)
        proof = prove(opened, "log/entries", b'{"path":"tile/entries/000.p/3"}')
        read = await face.send("GET", path, authorization=bearer(opened.token), sigil_proof=proof)
    assert read.headers["Cache-Control"] == "no-store"
    assert tiles.parse_bundle(read.body, 3) == [bytes(one.header) for one in home.ledger.log[:3]]


# Health and descriptions


def _parts(**changed: str) -> dict[str, str]:
    return {"bus": "connected"} | {name: "serving" for name in house.RESIDENTS if name != "gateway"} | changed


def _head(**changed: bool) -> canon.Checkpoint:
    return canon.Checkpoint(**({"note": "x", "sealed": True, "bootstrapped": True} | changed))


def test_readiness_says_what_is_wrong_and_what_hangs_on_it() -> None:
    """The pen, its reader and the gate are needed; others leave their own commands out."""
    well = health.judge(_parts(), _head(), coming_up=False)
    assert (well.ready, well.state, well.wrong) == (True, "serving", ())
    limping = health.judge(_parts(knowledge="silent"), _head(), coming_up=False)
    assert (limping.ready, limping.state) == (True, "degraded")
    assert "memory/write" in limping.wrong[0]
    assert not health.judge(_parts(knowledge="silent"), _head(), coming_up=True).ready
    for name in health.NEEDED:
        assert not health.judge(_parts(**{name: "silent"}), _head(), coming_up=False).ready
    assert not health.judge(_parts(), None, coming_up=False).ready
    assert not health.judge({"bus": "not connected"}, None, coming_up=False).ready


def test_before_genesis_the_house_is_ready_for_it() -> None:
    """Waiting for genesis is what it should do; a part that only starts isn't."""
    waiting = _parts(gatekeeper="waiting for genesis", license="waiting for genesis")
    assert health.judge(waiting, _head(bootstrapped=False), coming_up=True).state == "waiting for genesis"
    assert not health.judge(_parts(gatekeeper="starting"), _head(bootstrapped=False), coming_up=False).ready
    assert not health.judge(waiting, _head(), coming_up=False).ready


def test_every_state_of_readiness_is_described() -> None:
    """What `judge` can say is what the description lists."""
    seen = {
        health.judge(parts, head, coming_up=False).state
        for parts in (_parts(), _parts(notary=health.SILENT), _parts(canon_writer="read-only: set back"))
        for head in (_head(), _head(bootstrapped=False), None)
    }
    assert seen == set(openapi.schemas()["Readiness"]["properties"]["state"]["enum"])


async def test_readiness_asks_the_house(home: World, face: Face) -> None:
    """Those who don't live in this test are told as silent, with what hangs on them."""
    here = {"gateway", "gatekeeper", "knowledge", "projections", "canon_writer", "canon_reader"}
    away = set(house.RESIDENTS) - here
    async with asyncio.timeout(20):
        while True:
            answer = await face.send("GET", "/readyz")
            silent = {name for name, state in answer.json["parts"].items() if state == health.SILENT}
            if silent == away:  # a slow machine may leave a ping unanswered
                break
            await asyncio.sleep(health.KEEP_S)
    told = answer.json
    assert (answer.status, told["ready"], told["bootstrapped"]) == (503, False, True)
    assert {line.split(":")[0] for line in told["wrong"]} == away
    assert any("license/create" in line for line in told["wrong"])


async def test_metrics_are_for_neighbours(home: World, face: Face) -> None:
    """From loopback they are told; whoever speaks for another hears that there is nothing."""
    told = await face.send("GET", "/metrics")
    assert b"sigil_http_requests_total" in told.body
    for header in ("x_forwarded_for", "forwarded", "x_real_ip"):
        assert (await face.send("GET", "/metrics", **{header: "for=203.0.113.5"})).code == "NOT_FOUND"
    async with home.gateway(metrics_public=True) as public:
        assert (await public.send("GET", "/metrics", x_forwarded_for="203.0.113.5")).status == 200


async def test_a_page_of_another_host_reads_no_metrics(face: Face) -> None:
    """A browser on this machine, led here by another's name (DNS rebinding), comes from loopback and names that host."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1", "", "127.0.0.1@evil.example"):
        assert (await face.send("GET", "/metrics", host=host)).code == "NOT_FOUND", host
    for host in ("127.0.0.1", "localhost:8080", "[::1]:8080", "127.0.0.2:1"):
        assert (await face.send("GET", "/metrics", host=host)).status == 200, host


async def test_metrics_know_only_declared_routes(face: Face) -> None:
    """A stranger can't make labels."""
    await face.send("GET", "/made/up")
    await face.send("BREW", "/made/up")
    told = (await face.send("GET", "/metrics")).body
    assert b"made/up" not in told
    assert b"BREW" not in told


async def test_the_description_is_the_committed_one(face: Face) -> None:
    """What is served is what docs/openapi.json says."""
    answer = await face.send("GET", "/openapi.json")
    assert answer.body == generate.pages()["docs/openapi.json"]
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    "sent",
    [{"authorization": "Basic Ym9iOmJvYg=="}, {"sigil_grant": "x"}, {"sigil_grant": "\xe9"}, {"body": b"{}"}, {}],
    ids=["no-bearer", "grant", "no-grant", "body", "nothing"],
)
async def test_what_a_stranger_hears_anywhere_is_described(face: Face, sent: dict[str, Any]) -> None:
    """Whatever a route answers to a strange head or body, its description names the status and the code."""
    document = openapi.document()
    for route in routes.ROUTES:
        path = "/".join("none" if part.startswith("{") else part for part in route.path.split("/"))
        answer = await face.send(route.method, path, **sent)
        operation = document["paths"][route.path.replace("*}", "}")][route.method.lower()]
        told = operation["responses"][str(answer.status)]
        if answer.status >= 400 and route.path not in openapi.HEALTH:
            codes = document["components"]["responses"][told["$ref"].rpartition("/")[2]]["x-sigil-codes"]
            assert answer.code in codes, (route.method, route.path)


async def test_descriptions_are_compressed_once(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking often costs the house no compressing: a stranger's minute of it would fill a core."""
    monkeypatch.setattr(web.StreamResponse, "enable_compression", None)
    for path in ("/openapi.json", "/docs"):
        whole = await face.send("GET", path, accept_encoding="identity")
        async with aiohttp.ClientSession(auto_decompress=False) as http, http.get(face.address + path) as small:
            assert small.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await small.read()) == whole.body
        assert "Content-Encoding" not in whole.headers
        assert small.headers["Vary"] == whole.headers["Vary"] == "Accept-Encoding"


async def test_the_docs_work_offline_without_script(face: Face) -> None:
    """One page that loads nothing, runs nothing, and shows every route."""
    answer = await face.send("GET", "/docs")
    text = answer.body.decode()
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert text.count("<style>") == 1
    assert answer.headers["Content-Security-Policy"] == docs_page.CSP
    for route in routes.ROUTES:
        assert f"<code>{route.method} {route.path.replace('*}', '}')}</code>" in text


async def test_a_built_page_is_served_by_exact_path(home: World, tmp_path: Path) -> None:
    """Files with a hash in their name for ever, others asked for anew; nothing outside of the folder, links included."""
    (tmp_path / "secret").write_text("secret")
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html>")
    (page / "assets" / "app-1.js").write_text("1")
    (page / "link").symlink_to(tmp_path / "secret")
    async with home.gateway(static_dir=page) as face:
        index, script = await face.send("GET", "/"), await face.send("GET", "/assets/app-1.js")
        assert (index.body, index.headers["Content-Type"], index.headers["Cache-Control"]) == (
            b"<!doctype html>",
            "text/html",
            "no-cache",
        )
        assert (script.headers["Content-Type"], "immutable" in script.headers["Cache-Control"]) == (
            "text/javascript",
            True,
        )
        assert "script-src 'self'" in index.headers["Content-Security-Policy"]
        for path in ("/link", "/../secret", "/assets/../../secret", "/%2e%2e/secret", "/assets"):
            assert (await face.send("GET", path)).code == "NOT_FOUND", path
        assert (await face.send("POST", "/index.html")).code == "NOT_FOUND"


# What is told


async def test_refusals_before_the_gate_end_in_its_summary(home: World) -> None:
    """Counted here by code, told to the gatekeeper at the latest when the gateway stops; what the gate refused isn't counted twice."""
    home.counted()
    async with home.gateway() as face:
        token, _ = await face.login(home.eve)
        for _ in range(3):
            await face.send("GET", "/nothing")
        await face.call("memory/write", WRITE)
        await face.call("memory/write", {"key": 1}, authorization=bearer(token))
        await face.call("memory/write", WRITE, authorization=bearer(token))  # the gate's own no, recorded
        await raw(face, b"junk\r\n\r\n")
    assert home.counted() == {"NOT_FOUND": 3, "SESSION_MISSING": 1, "BAD_INPUT": 2}


async def test_stopping_ends_what_is_in_flight(home: World) -> None:
    """A call that was taken is answered; new connections aren't; a connection kept open is told that it ends."""
    home.slow.clear()
    before = home.slow_calls
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as browser,
        contextlib.AsyncExitStack() as stack,
    ):
        face = Face((await stack.enter_async_context(home.gateway())).gateway, browser)
        token, _ = await face.login(home.bob)
        slow = asyncio.create_task(face.call("statistics/records", authorization=bearer(token)))
        while home.slow_calls == before:
            await asyncio.sleep(0.005)
        stopping = asyncio.create_task(stack.aclose())
        async with asyncio.timeout(5):
            while not _is_free(face.gateway.port):
                await asyncio.sleep(0.005)
        assert not slow.done()
        home.slow.set()
        answer = await slow
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        await stopping


def _is_free(port: int) -> bool:
    """True once nobody listens there; asked without connecting, since an accept that races with the end is asyncio's to lose."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_a_process_that_is_told_to_stop_leaves_no_secret_in_its_log(home: World, tmp_path: Path) -> None:
    """The real process: canaries in every place a caller can fill, SIGTERM, exit 0, and a log that names none of them."""
    folder = home.running.folder
    config = tmp_path / "config.toml"
    options = home.running.settings("gateway")
    document = {
        "bus": {"url": options.bus.url, "nkey_seed_file": str(options.bus.nkey_seed_file)},
        "deployment": {"file": str(folder / "deployment.json")},
        "service": {"state_dir": str(tmp_path / "state")},
        "gateway": {"port": 0, "cookie_secure": False},
        "telemetry": {"level": "debug", "json": True},
    }
    config.write_text(tomli_w.dumps(document))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.gateway",
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SIGIL_CONFIG": str(config)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    lines: list[bytes] = []
    try:
        async with asyncio.timeout(20):
            port = await _port(process, lines)
            secrets = await _speak(home, port)
    finally:
        process.send_signal(signal.SIGTERM)
        rest, errors = await process.communicate()
    log = b"".join(lines) + rest + errors
    assert process.returncode == 0, log[-2000:]
    assert b'"event": "stopped"' in log
    for secret in secrets:
        assert secret.encode() not in log, secret[:20]
    told = [json.loads(line) for line in log.splitlines() if b'"event": "request"' in line]
    written = [one for one in told if one["route"] == "/api/commands/memory/write" and one["status"] == 200]
    assert written
    assert set(written[0]) >= {"trace_id", "route", "method", "status", "outcome", "ms", "caller"}
    assert re.fullmatch("[0-9a-f]{16}", written[0]["caller"])


async def _port(process: asyncio.subprocess.Process, lines: list[bytes]) -> int:
    assert process.stderr is not None
    while True:
        line = await process.stderr.readline()
        assert line, b"".join(lines).decode()
        lines.append(line)
        if b'"event": "listening"' in line:
            return int(json.loads(line)["port"])


async def _speak(home: World, port: int) -> list[str]:
    """Put a canary wherever a caller can put something; all that must not be in the log."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session_:
        face = Face(types.SimpleNamespace(port=port), session_)  # type: ignore[arg-type]
        token, cookie = await face.login(home.bob)
        csrf = await face.csrf(cookie)
        await face.call("memory/write", {"key": "secret", "text": CANARY}, cookie=cookie, x_csrf_token=csrf)
        await face.call("memory/write", {"key": 5, "text": CANARY, CANARY: 1}, authorization=bearer(token))
        await face.call("memory/write", f'{{"{CANARY}'.encode(), authorization=bearer(CANARY))
        await face.call("projection/status", {}, authorization=bearer(token), sigil_proof=CANARY)
        await face.call("projection/status", {}, authorization=bearer(token))
        await face.send(
            "GET", f"/api/memory/read/{CANARY}?tag={CANARY}", authorization=bearer(token), idempotency_key=CANARY
        )
        await face.send("GET", f"/{CANARY}", cookie=f"sigil_session={CANARY}", user_agent=CANARY, referer=CANARY)
        await raw(face, f"GET /{CANARY} HTTP/1.1\r\nAuthorization : {CANARY}\r\n\r\n".encode())
        await raw(face, f"{CANARY}\r\n\r\n".encode())
        await face.call("session/open", {"license": CANARY, "nonce": CANARY})
        await face.call(
            "license/bootstrap", {"token": CANARY, "owner_id": "a", "owner_name": "a", "root_key": "00" * 32}
        )
        assert (await face.call("session/close", authorization=bearer(token))).status == 200
    return [CANARY, token, cookie.partition("=")[2], csrf, home.bob.toml.splitlines()[1]]


async def test_bad_settings_are_told_at_once(home: World) -> None:
    """A trusted proxy that is no network ends the start."""
    with pytest.raises(ValueError, match="proxy"):
        async with home.gateway(trusted_proxies=("proxy",)):
            pass


def test_people_are_who_the_tests_say(home: World) -> None:
    """The house's people stand on real licences in a real log."""
    people = {
        home.bob: Loa.OPERATOR,
        home.eve: Loa.OBSERVER,
        home.ada: Loa.OPERATOR,
        home.mia: Loa.MENTOR,
    }
    for person, loa in people.items():
        issued = home.ledger.state.issued(person.licence_id)
        assert issued is not None
        assert (issued.table.loa, issued.table.key_bound) == (loa, person.keyed)
    assert msgspec.json.encode(home.running.deployment)


# What a peer was lent


@pytest.mark.parametrize("grant", ["nothing", "a.b", "a b", "x" * 7_000, "\u00ff", "\u0416"])
async def test_a_grant_that_cannot_be_read_is_an_error(home: World, face: Face, grant: str) -> None:
    """By bytes, by form, by length: a call with a broken grant is never made as if it had none."""
    token, _ = await face.login(home.bob)
    sent = {"authorization": bearer(token), "Sigil_Grant": grant}
    assert (await face.call("ping", {}, **sent)).code == "GRANT_INVALID"
    assert (await face.call("ping", {}, authorization=bearer(token))).code == "OK"


async def test_a_grant_where_nobody_looks_is_an_error_too(face: Face) -> None:
    """On what needs no permit, on pages, and twice in one request."""
    assert (await face.call("session/challenge", {}, Sigil_Grant="a.b")).code == "GRANT_INVALID"
    assert (await face.send("GET", "/openapi.json", Sigil_Grant="a.b")).code == "GRANT_INVALID"
    request = b"POST /api/commands/ping HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b\r\nContent-Type: application/json\r\n"
    twice = await raw(
        face, request + b"Sigil-Grant: a.b\r\nSigil-Grant: \r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    )
    assert b"SESSION_INVALID" in twice
