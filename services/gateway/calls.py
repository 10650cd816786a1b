"""One call: from a request that was let in to the reply's very bytes.

Down the page: parameters → whose session → the gate (`authorize`) for commands that need a permit → the command itself, with the permit
and the very same bytes. Commands admitted by what they carry (open, witness) go straight. Nothing is decided here.

Two commands touch the cookies: after `session/open` the answer carries a new one, after `session/close` every cookie of that session is
gone. A session that the gate says is over, or whose licence is, loses its cookie too.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from services.gateway import limits, parameters, sessions
from sigilcore.contracts import gatekeeper
from sigilcore.contracts.command import Admission, Command
from sigilcore.refusals import Code, Refused
from sigilrun.bus import Bus
from sigilrun.faces.routes import APPROVAL_HEADER, GRANT_HEADER, JSON, PROOF_HEADER, Route

MAX_TOKEN = 16_384  # as the contract's `Token`
_APPROVAL = re.compile(r"[0-9a-f-]{36}\.[0-9]{1,3}\.[0-9a-f]{32}")
_BEARER = "bearer "
_OVER = frozenset({Code.SESSION_INVALID, Code.SESSION_EXPIRED, Code.SESSION_CLOSED, Code.LICENSE_INVALID})
# What the gate says only to somebody whose session it took: a flood of these is that session's, not its neighbours'.
_TAKEN = frozenset(
    {
        Code.PEER_INVALID,
        Code.LOA_TOO_LOW,
        Code.GRANT_REFUSED,
        Code.OUT_OF_SCOPE,
        Code.OWNER_PROOF_NEEDED,
        Code.DENIED_BY_TRUST,
        Code.REVIEW_NEEDED,
    }
)


class Told(Refused):
    """A refusal that gate or service gave; it is counted there."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who says to be calling: a token from the header, or from a cookie that stands for one; the header wins."""

    token: str | None
    cookie: str | None  # only one that stands for a session
    by_cookie: bool  # the token came with the cookie, which browsers send by themselves
    proof: str | None
    approval: str | None = None


NOBODY = Caller(token=None, cookie=None, by_cookie=False, proof=None)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a command, read."""

    route: Route
    path: Mapping[str, str]
    query: str
    body: bytes
    key: str | None
    caller: Caller
    grant: str | None = None


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A call ready for the bus: everything that can be refused before it has been."""

    command: Command[Any, Any]
    body: bytes
    caller: Caller
    session: str | None  # the token to show the gate; None where no permit is needed
    grant: str | None = None  # what a peer was lent, for the gate to judge


def read_caller(
    authorization: str | None,
    cookie: str | None,
    proof: str | None,
    cookies: sessions.Cookies,
    approval: str | None = None,
) -> Caller | Refused:
    """Who calls, or the refusal of an Authorization that is no bearer token; of a caller nobody knows the cookie is no cookie."""
    token = cookies.find(cookie, time.time_ns() // 1_000_000)
    known = None if token is None else cookie
    if authorization is None:
        return Caller(token=token, cookie=known, by_cookie=token is not None, proof=proof, approval=approval)
    shown = authorization[len(_BEARER) :].strip()
    if not authorization.lower().startswith(_BEARER) or not _may_be_token(shown):
        return Refused(Code.SESSION_INVALID, "Authorization is `Bearer <session token>`", field="Authorization")
    return Caller(token=shown, cookie=known, by_cookie=False, proof=proof, approval=approval)


def bind(asked: Asked) -> Bound:
    """Read the parameters and ask for what the command needs; raises `Refused`."""
    command, caller = asked.route.command, asked.caller
    assert command is not None
    if asked.route.method == "GET":
        body = parameters.of_query(command, asked.path, asked.query)
    elif command is gatekeeper.CLOSE and not asked.body:
        body = _closing(caller)
    else:
        body = parameters.of_body(command, asked.body, asked.path, asked.key)
    return _with_grant(_bound(command, body, caller), asked.grant)


def bind_value(command: Command[Any, Any], given: dict[str, Any], caller: Caller) -> Bound:
    """The same for fields that the gateway fills in."""
    return _bound(command, parameters.of_value(command, given), caller)


def _bound(command: Command[Any, Any], body: bytes, caller: Caller) -> Bound:
    if command.admission is not Admission.PERMIT:
        return Bound(command=command, body=body, caller=caller, session=None)
    if caller.token is None:
        raise Refused(Code.SESSION_MISSING, f"{command.name} needs a session")
    _check_proof(caller)
    _check_approval(caller)
    return Bound(command=command, body=body, caller=caller, session=caller.token)


def _with_grant(bound: Bound, grant: str | None) -> Bound:
    """The call with its grant; one that can't be read, or that nobody would look at, is an error and never left aside."""
    if grant is None:
        return bound
    if bound.session is None:
        raise Refused(Code.GRANT_INVALID, f"{bound.command.name} takes no grant", field=GRANT_HEADER)
    if not _may_be_token(grant):
        raise Refused(Code.GRANT_INVALID, "no grant looks like this", field=GRANT_HEADER)
    return msgspec.structs.replace(bound, grant=grant)


def _closing(caller: Caller) -> bytes:
    if caller.token is None:
        raise Refused(Code.SESSION_MISSING, "there is no session to close")
    _check_proof(caller)
    proof = {} if caller.proof is None else {"proof": caller.proof}
    return parameters.of_value(gatekeeper.CLOSE, {"session": caller.token, **proof})


def _check_proof(caller: Caller) -> None:
    if caller.proof is not None and not _may_be_token(caller.proof):
        raise Refused(Code.PROOF_INVALID, "no proof looks like this", field=PROOF_HEADER)


def _check_approval(caller: Caller) -> None:
    if caller.approval is not None and not _APPROVAL.fullmatch(caller.approval):
        raise Refused(Code.BAD_INPUT, "an approval is <review>.<salt>", field=APPROVAL_HEADER)


def _may_be_token(text: str) -> bool:
    """A header may hold any bytes; what isn't UTF-8 in it comes as lone surrogates, which nothing behind this can encode."""
    return 0 < len(text) <= MAX_TOKEN and text.isascii()


class Calls:
    """The way over the bus, and what it does to cookies."""

    def __init__(self, bus: Bus, cookies: sessions.Cookies, known: limits.Known) -> None:
        """`known` learns which tokens the gate takes."""
        self._bus = bus
        self._cookies = cookies
        self._known = known

    async def ask(self, bound: Bound) -> bytes:
        """The reply's bytes. Raises `Told` as gate or service said, and `Fault`."""
        try:
            permit = None if bound.session is None else await self._authorize(bound, bound.session)
            wait_s = bound.command.longest_run_s + 1
            return await self._bus.call_raw(bound.command, bound.body, permit=permit, timeout_s=wait_s)
        except Refused as refused:
            raise Told(refused.code, refused.message, field=refused.field, detail=refused.detail) from refused

    async def answer(self, bound: Bound) -> web.Response:
        """The HTTP answer to a command."""
        reply = await self.ask(bound)
        response = web.Response(body=reply, content_type=JSON)
        if bound.command is gatekeeper.OPEN:
            self._opened(bound, reply, response)
        elif bound.command is gatekeeper.CLOSE:
            self._closed(bound, response)
        return response

    async def _authorize(self, bound: Bound, token: str) -> str:
        request = gatekeeper.Authorize(
            session=token,
            proof=bound.caller.proof,
            command=bound.command.name,
            parameters=bound.body.decode(),
            approval=bound.caller.approval,
            grant=bound.grant,
        )
        wait_s = gatekeeper.AUTHORIZE.longest_run_s + 1
        try:
            authorized = await self._bus.call(gatekeeper.AUTHORIZE, request, timeout_s=wait_s)
        except Refused as refused:
            if refused.code in _OVER:
                self._forget(token)
            elif refused.code in _TAKEN:
                self._known.took(token)
            raise
        self._known.took(token)
        return authorized.permit

    def _opened(self, bound: Bound, reply: bytes, response: web.Response) -> None:
        view = msgspec.json.decode(reply, type=gatekeeper.SessionView)
        self._cookies.forget(bound.caller.cookie)
        self._known.took(view.token)
        cookie = self._cookies.open(view.token, view.not_after_ms)
        left_s = max(0, view.not_after_ms // 1000 - int(time.time()))
        self._cookies.set_on(response, cookie, left_s)

    def _closed(self, bound: Bound, response: web.Response) -> None:
        closed = msgspec.json.decode(bound.body, type=gatekeeper.SessionCall)
        self._forget(closed.session)
        self._cookies.clear_on(response)

    def _forget(self, token: str) -> None:
        self._known.forget(token)
        self._cookies.forget_session(token)
