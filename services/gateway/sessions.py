"""The cookies: which random id stands for which session token, and the CSRF token of each.

Invariants:

- an id is 256 random bits, made anew at every session/open, so an id planted before a login is worth nothing after it;
- the map holds at most `limit` sessions, of one licence `OF_ONE`, and none beyond its own end; what it doesn't hold carries no authority
  at all. So whoever logs in again and again pushes out nobody but themselves;
- ids are looked up by keyed hashes, so the time of a look-up tells nothing of an id;
- over TLS the cookie is `__Host-sigil_session`, which no other host of the domain, and nobody without TLS, can plant; the plain name is
  read only where there is no TLS;
- a CSRF token is an HMAC of the id under a secret of this process: it is never kept, and one id's token opens no other;
- a token leaves this module only to go to the gate.
"""

import collections
import hashlib
import hmac
import secrets

import msgspec
from aiohttp import web

from sigilcore import envelope, session

COOKIE = "sigil_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
CSRF_HEADER = "x-csrf-token"
OF_ONE = 64


class Entry(msgspec.Struct, frozen=True):
    """What an id stands for."""

    token: str
    not_after_ms: int
    session_id: str
    licence_id: str


class Cookies:
    """The map of one process."""

    def __init__(self, *, limit: int, secure: bool) -> None:
        """`secure` sends cookies over TLS only."""
        self.called = SECURE_COOKIE if secure else COOKIE
        self._limit = limit
        self._secure = secure
        self._secret = secrets.token_bytes(32)
        self._entries: collections.OrderedDict[bytes, Entry] = collections.OrderedDict()
        self._name_of: dict[str, bytes] = {}  # each token was made by one session/open, so it has one id
        self._of_licence: dict[str, dict[bytes, None]] = {}  # oldest first

    def open(self, token: str, not_after_ms: int) -> str:
        """A new id for a session of the gatekeeper's; the oldest gives way when there are too many, of the licence or of all."""
        cookie = secrets.token_urlsafe(32)
        said = envelope.peek_unverified(token, session.SessionToken)
        name = self._name(cookie)
        self._entries[name] = Entry(token, not_after_ms, said.session_id, said.licence_id)
        self._name_of[token] = name
        own = self._of_licence.setdefault(said.licence_id, {})
        own[name] = None
        if len(own) > OF_ONE:
            self._forget(next(iter(own)))
        if len(self._entries) > self._limit:
            self._forget(next(iter(self._entries)))
        return cookie

    def find(self, cookie: str | None, now_ms: int) -> str | None:
        """The token that a cookie stands for, if it still stands for one."""
        if cookie is None:
            return None
        name = self._name(cookie)
        entry = self._entries.get(name)
        if entry is None:
            return None
        if now_ms >= entry.not_after_ms:
            self._forget(name)
            return None
        return entry.token

    def forget(self, cookie: str | None) -> None:
        """An id that is over."""
        if cookie is not None:
            self._forget(self._name(cookie))

    def forget_session(self, token: str) -> None:
        """The id of a session that was closed."""
        if token in self._name_of:
            self._forget(self._name_of[token])

    def end_session(self, session_id: str) -> None:
        """A session was closed, here or at another gateway."""
        for name in [name for name, entry in self._entries.items() if entry.session_id == session_id]:
            self._forget(name)

    def end_licence(self, licence_id: str) -> None:
        """A licence was revoked: all its sessions end."""
        for name in list(self._of_licence.get(licence_id, ())):
            self._forget(name)

    def __len__(self) -> int:
        return len(self._entries)

    def _forget(self, name: bytes) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        self._name_of.pop(entry.token, None)
        own = self._of_licence[entry.licence_id]
        del own[name]
        if not own:
            del self._of_licence[entry.licence_id]

    def _name(self, cookie: str) -> bytes:
        return hashlib.blake2s(cookie.encode("utf-8", "surrogateescape"), key=self._secret).digest()

    def csrf(self, cookie: str) -> str:
        """The token that unsafe calls with this cookie must show."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()

    def csrf_shown(self, cookie: str, shown: str | None) -> bool:
        """True if it is this cookie's token; compared in constant time."""
        return shown is not None and shown.isascii() and hmac.compare_digest(self.csrf(cookie), shown)

    def set_on(self, response: web.StreamResponse, cookie: str, max_age_s: int) -> None:
        """Give the browser its id."""
        response.set_cookie(
            self.called, cookie, max_age=max_age_s, path="/", httponly=True, samesite="Strict", secure=self._secure
        )

    def clear_on(self, response: web.StreamResponse) -> None:
        """Take the id from the browser."""
        response.del_cookie(self.called, path="/", httponly=True, samesite="Strict", secure=self._secure)
