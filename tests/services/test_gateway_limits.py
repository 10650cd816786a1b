"""What the gateway lets one caller take: requests, logins, connections, places, time; and what nobody can take from the others."""

import ast
import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.gateway import kept, limits, logins, room, server, sessions
from services.gateway.server import Connections
from sigilcore import ids, peers, signing
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper, license, quorum
from sigilcore.refusals import Code, Refused
from sigilrun import wire
from tests.services.gateway_world import Face, World, bearer, raw, token_of, world
from tests.simulator import Person
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SLOW_PING = (
    b"POST /api/commands/ping HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9\r\n\r\n{"
)
NOBODY_S_ATTEST = {
    "proposal_id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "witness_id": "w",
    "signature": "A" * 86,
}


@pytest.fixture(scope="module", name="home")
async def _home(tmp_path_factory) -> AsyncIterator[World]:
    """One house for all tests of this file."""
    async with world(tmp_path_factory.mktemp("limits") / "house") as one:
        yield one


@pytest.fixture(name="face")
async def _face(home: World) -> AsyncIterator[Face]:
    """A gateway of the test's own."""
    async with home.gateway() as one:
        yield one


@contextlib.contextmanager
def refused(code: Code) -> Iterator[pytest.ExceptionInfo[Refused]]:
    with pytest.raises(Refused) as caught:
        yield caught
    assert caught.value.code is code


# Logout everywhere


async def newcomer(home: World, name: str) -> Person:
    person = home.ledger.issue(Person(name, keyed=False), Loa.OPERATOR)
    await home.canon.publish()
    return person


async def test_a_revoked_licence_has_no_cookie_left_within_a_second(home: World, face: Face) -> None:
    """All cookies of it, at every gateway, by the change stream; nobody else's."""
    eve = await newcomer(home, "revoked-eve")
    async with home.gateway() as other:
        cookies = [(await at.login(eve))[1] for at in (face, face, other)]
        _, bobs = await face.login(home.bob)
        home.ledger.revoke(eve)
        began = time.monotonic()
        await home.canon.publish()
        await until(lambda: len(face.gateway._cookies) == 1 and len(other.gateway._cookies) == 0, 1)
        assert time.monotonic() - began < 1
        for at, cookie in zip((face, face, other), cookies, strict=True):
            assert (await at.send("GET", "/api/memory/list", cookie=cookie)).code == "SESSION_MISSING"
        assert (await face.send("GET", "/api/memory/list", cookie=bobs)).status == 200


async def test_a_revocation_nobody_told_the_gateway_of_ends_the_cookie_too(
    home: World, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is a hint; the gate refuses the revoked licence, and then its cookie is nobody's."""
    eve = await newcomer(home, "untold-eve")
    _, cookie = await face.login(eve)
    monkeypatch.setattr(face.gateway._cookies, "end_licence", lambda _: None)
    home.ledger.revoke(eve)
    await home.canon.publish()
    async with asyncio.timeout(2):
        while (await face.send("GET", "/api/memory/list", cookie=cookie)).status == 200:
            await asyncio.sleep(0.01)
    assert (await face.send("GET", "/api/memory/list", cookie=cookie)).code == "SESSION_MISSING"


async def test_a_session_closed_at_another_gateway_has_no_cookie_here(home: World, face: Face) -> None:
    """By the change stream again."""
    token, cookie = await face.login(home.bob)
    async with home.gateway() as other:
        assert (await other.call("session/close", {"session": token})).status == 200
    await until(lambda: len(face.gateway._cookies) == 0, 1)
    assert (await face.send("GET", "/api/memory/list", cookie=cookie)).code == "SESSION_MISSING"


@pytest.mark.parametrize("data", [b"", b"junk", b"{}", b'{"seq":1,"header":{},"payload":{}}'])
async def test_an_event_that_says_nothing_ends_nobody(home: World, face: Face, data: bytes) -> None:
    """What can't be read is ignored, and who is logged in stays so."""
    _, cookie = await face.login(home.bob)
    face.gateway._ends._heard(wire.Message(subject="x", reply="", data=data, headers={}))
    assert (await face.send("GET", "/api/memory/list", cookie=cookie)).status == 200


# Cookies and identity


async def test_over_tls_a_cookie_without_host_prefix_is_not_read(home: World) -> None:
    """A neighbouring host, or somebody on plain HTTP, can plant `sigil_session`; it is nobody's, even with a live id."""
    async with home.gateway(cookie_secure=True) as face:
        nonce = (await face.call("session/challenge")).json["nonce"]
        opened = await face.call("session/open", {"license": home.bob.toml, "nonce": nonce})
        live = opened.cookies["__Host-sigil_session"].value
        planted = await face.send("GET", "/api/memory/list", cookie=f"sigil_session={live}")
        assert planted.code == "SESSION_MISSING"
        own = await face.send("GET", "/api/memory/list", cookie=f"__Host-sigil_session={live}")
        assert own.status == 200


async def test_a_csrf_token_of_another_session_moves_nothing(home: World, face: Face) -> None:
    """Not even of another session of the same person, and not one of before the login."""
    _, mine = await face.login(home.bob)
    _, other = await face.login(home.bob)
    foreign = await face.csrf(other)
    answer = await face.send("POST", "/api/memory/write", {"key": "a", "text": "b"}, cookie=mine, x_csrf_token=foreign)
    assert (answer.status, answer.code) == (403, "CSRF_INVALID")


@pytest.mark.parametrize(
    "header",
    [
        {"x_remote_user": "root"},
        {"x_forwarded_user": "root"},
        {"x_sigil_loa": "root"},
        {"sigil_caller": "root"},
        {"sigil_permit": "e30.AAAA"},
        {"forwarded": "for=root"},
        {"x_sigil_licence": "root"},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_nobody_is_who_a_header_says(home: World, face: Face, header: dict[str, str]) -> None:
    """Identity comes with the session and from nowhere else."""
    token, _ = await face.login(home.bob)
    answer = await face.call("ping", authorization=bearer(token), **header)
    assert answer.json == {"owner_id": "bob", "loa": "operator"}
    assert (await face.call("license/list", authorization=bearer(token), **header)).code == "LOA_TOO_LOW"
    assert (await face.call("ping", **header)).code == "SESSION_MISSING"


@pytest.mark.parametrize("field", ["owner_id", "owner", "loa", "caller", "permit", "session"])
async def test_nobody_is_who_a_body_says(home: World, face: Face, field: str) -> None:
    """A field that would say so is unknown, and refused."""
    token, _ = await face.login(home.bob)
    body = {"key": "a", "text": "b", field: "root"}
    answer = await face.call("memory/write", body, authorization=bearer(token))
    assert (answer.status, answer.code) == (400, "BAD_INPUT")


SECRET = ("token", "secret", "passphrase", "password", "csrf", "cookie", "nonce_hash", "token_hash", "mac", "check")


def secret_comparisons(source: str) -> list[int]:
    """Lines that compare by `==` or `!=` what is called like a secret with anything but a literal."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            continue
        sides = (node.left, node.comparators[0])
        if any(isinstance(side, ast.Constant) for side in sides):
            continue
        names = [side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "") for side in sides]
        if any(name in SECRET or name.endswith(("_token", "_secret", "_mac", "_csrf")) for name in names):
            found.append(node.lineno)
    return found


def test_secrets_are_compared_in_constant_time() -> None:
    """No `==` on anything that is called like a secret, in all that runs."""
    assert secret_comparisons("if shown == self.csrf: pass\nif token != other: pass\nif token == 'x': pass") == [1, 2]
    places = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("libs", "services", "cli")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in secret_comparisons(path.read_text())
    ]
    assert places == []


# One caller, however many sessions


async def test_many_sessions_of_one_licence_are_one_caller(home: World) -> None:
    """Who opens a second session has neither a second minute nor a second half of the places."""
    async with home.gateway(session_rate_per_minute=2, now_s=lambda: 600.0) as face:
        tokens = [(await face.login(home.eve))[0] for _ in range(3)]
        codes = [(await face.call("ping", authorization=bearer(token))).code for token in tokens]
        assert codes == ["OK", "OK", "RATE_LIMITED"]
    async with home.gateway(max_in_flight=4, body_timeout_s=5) as face:
        tokens = [(await face.login(home.eve))[0] for _ in range(2)]
        bob, _ = await face.login(home.bob)
        for token in (*tokens, bob):
            assert (await face.call("ping", authorization=bearer(token))).status == 200
        held = []
        for token in tokens * 2:
            _, writer = await asyncio.open_connection("127.0.0.1", face.gateway.port)
            writer.write(SLOW_PING % token.encode())
            await writer.drain()
            held.append(writer)
        async with asyncio.timeout(2):
            while (await face.call("ping", authorization=bearer(tokens[0]))).code != "BUSY":
                await asyncio.sleep(0.005)
        assert (await face.call("ping", authorization=bearer(bob))).status == 200
        for writer in held:
            writer.close()


async def test_a_stranger_s_megabyte_counts_as_what_it_costs(home: World) -> None:
    """Reading JSON is the dearest thing that a stranger can ask for: bodies count by their length, unless a session stands behind them."""
    heavy = b"[" + b"[]," * 340_000 + b"[]]"
    async with home.gateway(rate_limit_per_minute=400, now_s=lambda: 600.0) as face:
        token, _ = await face.login(home.bob)
        for sent, codes in (
            ({"authorization": bearer(token)}, ["BAD_INPUT"] * 3),
            ({}, [*["BAD_INPUT"] * 2, "RATE_LIMITED"]),
        ):
            assert [(await face.send("POST", "/api/commands/ping", heavy, **sent)).code for _ in range(3)] == codes


def test_who_logs_in_again_and_again_pushes_out_only_themselves() -> None:
    """A licence's cookies are bounded: Bob's stays, however often Eve logs in, and of hers the newest."""
    cookies = sessions.Cookies(limit=2 * sessions.OF_ONE, secure=True)
    licences = ids.new(), ids.new()
    bob = cookies.open(token_of(ids.new(), licences[0]), not_after_ms=1000)
    eve = [cookies.open(token_of(ids.new(), licences[1]), not_after_ms=1000) for _ in range(3 * sessions.OF_ONE)]
    assert cookies.find(bob, 0) is not None
    assert [one for one in eve if cookies.find(one, 0) is not None] == eve[-sessions.OF_ONE :]
    cookies.end_licence(licences[1])
    assert (len(cookies), cookies.find(bob, 0) is not None) == (1, True)


# Counts that outlive the process


async def test_a_restart_gives_nobody_new_requests(home: World, tmp_path: Path) -> None:
    """Address and session have used up their minute; the next process knows."""
    options = {"now_s": lambda: 600.0, "folder": tmp_path, "rate_limit_per_minute": 4, "session_rate_per_minute": 2}
    async with home.gateway(**options) as face:
        token, _ = await face.login(home.bob)
        for _ in range(2):
            assert (await face.call("ping", authorization=bearer(token))).status == 200
        assert (await face.call("ping", authorization=bearer(token))).code == "RATE_LIMITED"
        assert (await face.send("GET", "/openapi.json")).status == 200
    async with home.gateway(**options) as face:
        assert (await face.send("GET", "/openapi.json")).status == 200
        assert (await face.send("GET", "/openapi.json")).code == "RATE_LIMITED"
        face.gateway._known.took(token)
        assert (await face.call("ping", authorization=bearer(token))).code == "RATE_LIMITED"


def test_a_killed_process_forgets_at_most_what_was_not_settled(tmp_path: Path) -> None:
    """What was written behind is there for the next process, without a word of farewell."""
    first = kept.Kept(tmp_path)
    rates = limits.Rates(first, address_per_minute=3, session_per_minute=3)
    for _ in range(3):
        rates.count(address="192.0.2.1", session=None, now_s=120.5)
    first.settle()
    rates.count(address="192.0.2.2", session=None, now_s=120.5)  # the last second's
    second = kept.Kept(tmp_path)
    again = limits.Rates(second, address_per_minute=3, session_per_minute=3)
    assert again.count(address="192.0.2.1", session=None, now_s=121.0).refused
    assert again.count(address="192.0.2.2", session=None, now_s=121.0).remaining == 2
    second.close()
    first._db.close()


def test_a_minute_slides(tmp_path: Path) -> None:
    """Half a window later half of the last one still counts; two windows later nothing does."""
    counts = kept.Kept(tmp_path)
    rates = limits.Rates(counts, address_per_minute=10, session_per_minute=1)
    for _ in range(10):
        assert not rates.count(address="a", session=None, now_s=60.0).refused
    assert rates.count(address="a", session=None, now_s=119.9).refused
    told = [rates.count(address="a", session=None, now_s=150.0).refused for _ in range(6)]
    assert told == [False] * 5 + [True]
    assert rates.count(address="a", session=None, now_s=240.0).remaining == 9
    counts.close()


def test_a_clock_set_back_gives_nobody_new_requests(tmp_path: Path) -> None:
    """Nor does one that was ahead lock anybody out for longer than the window."""
    counts = kept.Kept(tmp_path)
    rates = limits.Rates(counts, address_per_minute=2, session_per_minute=1)
    for _ in range(2):
        rates.count(address="a", session=None, now_s=60_000.0)
    assert rates.count(address="a", session=None, now_s=600.0).refused
    assert not rates.count(address="a", session=None, now_s=720.0).refused
    counts.close()


def test_the_counts_file_tells_no_token_and_no_address(tmp_path: Path) -> None:
    """Names are keyed hashes, and the file is its owner's alone."""
    counts = kept.Kept(tmp_path)
    limits.Rates(counts, address_per_minute=2, session_per_minute=1).count(
        address="203.0.113.77", session="a-session-token", now_s=60.0
    )
    counts.close()
    data = (tmp_path / kept.FILE).read_bytes()
    assert b"203.0.113.77" not in data
    assert b"a-session-token" not in data
    assert (tmp_path / kept.FILE).stat().st_mode & 0o077 == 0


def test_a_damaged_counts_file_begins_anew(tmp_path: Path) -> None:
    """The gateway starts; a minute's counts are no evidence."""
    (tmp_path / kept.FILE).write_bytes(b"this is no database, " * 100)
    counts = kept.Kept(tmp_path)
    counts.put("address", "a", (1, 1, 1))
    counts.close()
    again = kept.Kept(tmp_path)
    assert again.get("address", "a") == (1, 1, 1)
    again.close()


# Logins


def attempt(address: str, licence: str | None = "l1") -> logins.Attempt:
    return logins.Attempt(address=address, licence=licence)


def test_each_failed_login_waits_longer(tmp_path: Path) -> None:
    """One second, two, four, up to a minute; trying during the wait neither helps nor lengthens it; quiet forgives."""
    counts = kept.Kept(tmp_path)
    guard = logins.Logins(counts, tries=3)
    now_s, waits = 1000.0, []
    for _ in range(10):
        guard.failed(attempt("a"), Code.LICENSE_INVALID, now_s)
        wait_s = 0
        for _ in range(3):
            try:
                guard.check(attempt("a"), now_s)
            except Refused as told:
                wait_s = told.detail["retry_after_s"] if told.detail else 0
        waits.append(wait_s)
        now_s += wait_s
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    guard.check(attempt("a"), now_s)
    guard.check(attempt("a"), now_s + 20 * logins.FORGET_S)
    assert guard._failures("login address", "a", now_s + 20 * logins.FORGET_S) == 0
    counts.close()


def test_many_addresses_gain_one_try_each(tmp_path: Path) -> None:
    """Failures of one licence count together: who failed with it once waits as long as all of them earned."""
    counts = kept.Kept(tmp_path)
    guard = logins.Logins(counts, tries=3)
    for n in range(6):
        guard.check(attempt(f"192.0.2.{n}"), 1000.0)
        guard.failed(attempt(f"192.0.2.{n}"), Code.CERTIFICATE_INVALID, 1000.0)
    with refused(Code.RATE_LIMITED) as told:
        guard.check(attempt("192.0.2.0"), 1000.0)
    assert told.value.detail == {"retry_after_s": 8}
    counts.close()


def test_nobody_locks_an_owner_out_by_failing_in_their_name(tmp_path: Path) -> None:
    """However often others fail with the licence: an address that didn't, doesn't wait. Nor does another licence."""
    counts = kept.Kept(tmp_path)
    guard = logins.Logins(counts, tries=3)
    for _ in range(50):
        guard.failed(attempt("192.0.2.66"), Code.CERTIFICATE_INVALID, 1000.0)
    guard.check(attempt("203.0.113.1"), 1000.0)
    with refused(Code.RATE_LIMITED):
        guard.check(attempt("192.0.2.66", licence="another"), 1000.0)
    counts.close()


def test_what_is_no_failed_login_is_not_counted(tmp_path: Path) -> None:
    """A gate that is away, or a nonce that got old, is nobody's guess."""
    counts = kept.Kept(tmp_path)
    guard = logins.Logins(counts, tries=1)
    for code in (Code.UNAVAILABLE, Code.NONCE_INVALID, Code.BAD_INPUT, Code.RATE_LIMITED):
        guard.failed(attempt("a"), code, 1000.0)
    guard.check(attempt("a"), 1000.0)
    counts.close()


async def test_guessing_at_the_login_waits_across_a_restart(home: World, tmp_path: Path) -> None:
    """A licence whose seal was changed, tried too often: then 429 with the seconds to wait, in the next process too."""
    eve = await newcomer(home, "guessed-eve")
    seal = eve.toml.index("sig = ") + 10
    forged = eve.toml[:seal] + ("A" if eve.toml[seal] != "A" else "B") + eve.toml[seal + 1 :]
    async with home.gateway(folder=tmp_path, login_tries=6, now_s=lambda: 600.0) as face:
        nonce = (await face.call("session/challenge")).json["nonce"]
        codes = [(await face.call("session/open", {"license": forged, "nonce": nonce})).code for _ in range(6)]
        assert codes == ["LICENSE_INVALID"] * 6
    async with home.gateway(folder=tmp_path, login_tries=1, now_s=lambda: 601.0) as face:
        waits = await face.call("session/open", {"license": forged, "nonce": nonce})
        assert (waits.status, waits.code) == (429, "RATE_LIMITED")
        assert int(waits.headers["Retry-After"]) == waits.json["info"]["retry_after_s"] == 31
        assert (await face.send("GET", "/openapi.json")).status == 200


def test_what_attempts_a_login() -> None:
    """`session/open` with what reads as a licence, `session/peer` with what reads as an opening, and the bootstrap token; nothing else,
    however it is broken."""
    assert logins.attempt(quorum.ATTEST, b"{}", "a") is None
    for body in (b"", b"[", b"[]", b"{}", b'{"license":7}', b'{"license":"x = 1"}', b"[" * 5000):
        assert logins.attempt(gatekeeper.OPEN, body, "a") is None
        assert logins.attempt(gatekeeper.PEER, body, "a") is None
    for opening in ("", ".", "x.y", "e30.AAAA", "\ud800"):
        assert logins.attempt(gatekeeper.PEER, json.dumps({"opening": opening}).encode(), "a") is None
    assert logins.attempt(license.BOOTSTRAP, b"{", "a") == attempt("a", None)


async def test_guessing_at_a_peer_s_session_waits_too(home: World) -> None:
    """Openings of a node that nobody enrolled, each with a good signature of its own: the address waits as for any failed login."""
    stranger = signing.Ed25519Signer.generate()
    async with home.gateway(login_tries=3, now_s=lambda: 600.0) as face:
        asked = (await face.call("session/challenge")).json
        said = peers.PeerSession(
            runtime_id=asked["runtime_id"],
            tenant=asked["tenant"],
            node_key=stranger.public_key.hex(),
            session_key=signing.Ed25519Signer.generate().public_key.hex(),
            nonce=asked["nonce"],
            not_after_ms=asked["expires_ms"] + 60_000,
        )
        opening = {"opening": peers.greet(stranger, said)}
        codes = [(await face.call("session/peer", opening)).code for _ in range(5)]
        assert codes == [*["PEER_INVALID"] * 3, *["RATE_LIMITED"] * 2]


# Time and connections


@pytest.mark.parametrize("start", [b"GET /", b"POST /api/commands/ping HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_slow_loris_ends_by_time(home: World, start: bytes) -> None:
    """A head whose bytes drip is closed when its time is over, however steadily they come."""
    async with home.gateway(head_timeout_s=1) as face:
        reader, writer = await asyncio.open_connection("127.0.0.1", face.gateway.port)
        began = time.monotonic()
        writer.write(start)

        async def drip() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await asyncio.sleep(0.1)
                    writer.write(b"x")
                    await writer.drain()

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(5):
            with contextlib.suppress(OSError):
                await reader.read()
        dripping.cancel()
        writer.close()
        assert 0.9 < time.monotonic() - began < 4


async def test_a_connection_that_is_used_is_kept(home: World) -> None:
    """The head's time is for heads that were begun, not for a connection between two requests."""
    async with home.gateway(head_timeout_s=1) as face:
        reader, writer = await asyncio.open_connection("127.0.0.1", face.gateway.port)
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n")
            await reader.readuntil(b'{"alive":true}')
            await asyncio.sleep(1.2)
        writer.close()


async def test_an_answer_that_nobody_takes_ends_by_time(home: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for much and reads nothing holds a connection for its time, and no longer."""
    monkeypatch.setattr(server, "TAKEN_S", 0.5)
    async with home.gateway(max_connections=4) as face:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", face.gateway.port))
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 32)
            ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            async with asyncio.timeout(5):
                while True:
                    with contextlib.suppress(OSError):
                        if b" 200 " in await raw(face, ask):
                            break


async def test_one_address_cannot_take_all_connections(home: World) -> None:
    """Of eight, two; a third is closed at once, and when one goes there is room again."""
    async with home.gateway(max_connections=8) as face:
        held = [await asyncio.open_connection("127.0.0.1", face.gateway.port) for _ in range(2)]
        for reader, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n")
        ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(OSError):
            assert await raw(face, ask) == b""
        held[0][1].close()
        async with asyncio.timeout(2):
            while True:
                with contextlib.suppress(OSError):
                    if b" 200 " in await raw(face, ask):
                        break
        held[1][1].close()


class Held:
    """A connection that says nothing."""

    idle = True

    def end(self) -> None:
        self.idle = False


def test_connections_of_a_proxy_are_many_callers() -> None:
    """A trusted proxy has as many as there are; together they are bounded all the same."""
    table = Connections(8, limits.networks(["10.0.0.0/8"]))
    held = [Held() for _ in range(3)]
    assert [table.come("192.0.2.1", one) for one in held] == [True, True, False]
    for one in held:
        table.gone("192.0.2.1", one)
    assert [table.come("10.0.0.1", Held()) for _ in range(9)] == [True] * 8 + [False]
    assert not table.come("192.0.2.1", Held())


def test_a_few_silent_addresses_shut_nobody_out() -> None:
    """All places are taken: who has the most loses the oldest that waits for nothing; who has no more than others takes from nobody."""
    table = Connections(8, ())
    held = [Held() for _ in range(8)]
    assert all(table.come(f"192.0.2.{n // 2}", one) for n, one in enumerate(held))
    held[0].idle = False  # a request is being answered on it
    assert table.come("198.51.100.1", Held())
    assert [one.idle for one in held] == [False, False, *[True] * 6]
    for one in held[1:]:
        one.idle = False
    assert not table.come("198.51.100.2", Held())


async def test_four_addresses_that_say_nothing_keep_no_caller_out(home: World) -> None:
    """As many connections as there may be, held in silence from four addresses of this machine; a fifth is answered."""
    async with home.gateway(max_connections=8) as face:
        held = [
            await asyncio.open_connection("127.0.0.1", face.gateway.port, local_addr=(f"127.0.0.{2 + n // 2}", 0))
            for n in range(8)
        ]
        assert (await face.send("GET", "/openapi.json")).status == 200
        for _, writer in held:
            writer.close()


# Places


def asking(caller: str, *, good: bool = True, reserved: bool = False, permit: bool = True) -> room.Asking:
    return room.Asking(caller=caller, good=good, reserved=reserved, permit=permit)


def test_strangers_leave_half_of_the_places_to_sessions() -> None:
    """However many addresses they have; and no session takes all."""
    places = room.Room(8, 8)
    with contextlib.ExitStack() as stack:
        for n in range(4):
            stack.enter_context(places.place(asking(f"a{n}", good=False)))
        with refused(Code.BUSY), places.place(asking("a9", good=False)):
            pass
        for _ in range(4):
            stack.enter_context(places.place(asking("bob")))
        with refused(Code.BUSY), places.place(asking("eve")):
            pass
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(places.place(asking("bob")))
            with refused(Code.BUSY), places.place(asking("bob")):
                pass
            stack.enter_context(places.place(asking("eve")))


def test_what_brakes_finds_a_place_when_there_is_none() -> None:
    """A revocation by a session and an attestation by anybody, each from its own part of the reserve."""
    places = room.Room(2, 8)
    with contextlib.ExitStack() as stack:
        stack.enter_context(places.place(asking("bob")))
        stack.enter_context(places.place(asking("eve")))
        for n in range(4):  # strangers' half of the reserve
            assert stack.enter_context(places.place(asking(f"a{n}", good=False, reserved=True, permit=False)))
        with refused(Code.BUSY), places.place(asking("a9", good=False, reserved=True, permit=False)):
            pass
        assert stack.enter_context(places.place(asking("root", reserved=True)))
        assert stack.enter_context(places.place(asking("root", reserved=True)))
        with refused(Code.BUSY), places.place(asking("root", reserved=True)):
            pass
        with refused(Code.BUSY), places.place(asking("stranger", good=False, reserved=True)):
            pass
        assert stack.enter_context(places.place(asking("other", reserved=True)))


async def test_slow_strangers_keep_no_session_and_no_witness_out(home: World) -> None:
    """Bodies that never end hold every place that strangers have; a session is answered, and an attestation is read."""
    async with home.gateway(max_in_flight=4, body_timeout_s=5) as face:
        token, _ = await face.login(home.bob)
        assert (await face.call("ping", authorization=bearer(token))).status == 200
        head = b"POST /api/commands/session/open HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        slow = [await asyncio.open_connection("127.0.0.1", face.gateway.port) for _ in range(4)]
        for _, writer in slow:
            writer.write(head)
            await writer.drain()
        async with asyncio.timeout(2):
            while (await face.call("session/challenge")).code != "BUSY":
                await asyncio.sleep(0.005)
        assert (await face.call("ping", authorization=bearer(token))).status == 200
        attest = await face.call("quorum/attest", NOBODY_S_ATTEST)
        assert attest.code != "BUSY"
        for _, writer in slow:
            writer.close()


async def test_an_address_that_used_up_its_minute_can_still_brake(home: World) -> None:
    """Attesting and closing have requests of their own beyond the limit, and those end too."""
    async with home.gateway(rate_limit_per_minute=2, now_s=lambda: 600.0) as face:
        token, _ = await face.login(home.bob)
        assert (await face.send("GET", "/openapi.json")).code == "RATE_LIMITED"
        assert (await face.call("session/close", {"session": token})).status == 200
        codes = [(await face.call("quorum/attest", NOBODY_S_ATTEST)).code for _ in range(limits.RESERVE)]
        assert codes[0] != "RATE_LIMITED"
        assert codes[-1] == "RATE_LIMITED"
