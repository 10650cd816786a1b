"""The cookies: which random id stands for which session token, and the CSRF token of each.

Invariants:

- an id is 256 random bits, made anew at every session/open, so an id planted before a login is worth nothing after it;
- the map holds at most `limit` sessions and none beyond its own end; what it doesn't hold carries no authority at all;
- a CSRF token is an HMAC of the id under a secret of this process: it is never kept, and one id's token opens no other;
- a token leaves this module only to go to the gate.
"""

import collections
import hashlib
import hmac
import secrets

import msgspec
from aiohttp import web

COOKIE = "sigil_session"
CSRF_HEADER = "x-csrf-token"


class Entry(msgspec.Struct, frozen=True):
    """What an id stands for."""

    token: str
    not_after_ms: int


class Cookies:
    """The map of one process."""

    def __init__(self, *, limit: int, secure: bool) -> None:
        """`secure` sends cookies over TLS only."""
        self._limit = limit
        self._secure = secure
        self._secret = secrets.token_bytes(32)
        self._entries: collections.OrderedDict[str, Entry] = collections.OrderedDict()
        self._cookie_of: dict[str, str] = {}  # each token was made by one session/open, so it has one id

    def open(self, token: str, not_after_ms: int) -> str:
        """A new id for a session; the oldest gives way when there are too many."""
        cookie = secrets.token_urlsafe(32)
        self._entries[cookie] = Entry(token, not_after_ms)
        self._cookie_of[token] = cookie
        if len(self._entries) > self._limit:
            self.forget(next(iter(self._entries)))
        return cookie

    def find(self, cookie: str | None, now_ms: int) -> str | None:
        """The token that a cookie stands for, if it still stands for one."""
        entry = self._entries.get(cookie) if cookie is not None else None
        if entry is None or cookie is None:
            return None
        if now_ms >= entry.not_after_ms:
            self.forget(cookie)
            return None
        return entry.token

    def forget(self, cookie: str | None) -> None:
        """An id that is over."""
        entry = self._entries.pop(cookie, None) if cookie is not None else None
        if entry is not None:
            self._cookie_of.pop(entry.token, None)

    def forget_session(self, token: str) -> None:
        """The id of a session that was closed."""
        self.forget(self._cookie_of.get(token))

    def csrf(self, cookie: str) -> str:
        """The token that unsafe calls with this cookie must show."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()

    def csrf_shown(self, cookie: str, shown: str | None) -> bool:
        """True if it is this cookie's token; compared in constant time."""
        return shown is not None and shown.isascii() and hmac.compare_digest(self.csrf(cookie), shown)

    def set_on(self, response: web.StreamResponse, cookie: str, max_age_s: int) -> None:
        """Give the browser its id."""
        response.set_cookie(
            COOKIE, cookie, max_age=max_age_s, path="/", httponly=True, samesite="Strict", secure=self._secure
        )

    def clear_on(self, response: web.StreamResponse) -> None:
        """Take the id from the browser."""
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=self._secure)
