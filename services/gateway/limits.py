"""How much one caller may ask: who is counted, and what the count says.

Invariants:

- a caller with a session that the gate took is counted as that session; everyone else, guessers of tokens included, as their address
  (of IPv6 the /64, since one owner has all of it);
- an address is the connection's, unless a trusted proxy says otherwise: then it is the last one in X-Forwarded-For that is no trusted
  proxy, and what stands before it is hearsay;
- counting costs two numbers a caller, and at most `KEYS` callers are kept, so neither a flood nor many addresses cost memory.

The window slides by weighing the last minute's count (`limits`, sliding window counter): a list of every request's time, exact to the
request, would hold 120 000 entries a session.
"""

import collections
import functools
import hashlib
import ipaddress
import math
import secrets
import time
from collections.abc import Sequence

import limits
import limits.storage
import limits.strategies
import msgspec

from sigilcore.refusals import Code, Refused

KEYS = 4096
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a caller stands after this request."""

    limit: int
    remaining: int
    reset_s: int
    refused: bool

    def headers(self) -> dict[str, str]:
        """As every answer tells it."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }

    def check(self) -> None:
        """Raises `Refused` beyond the limit."""
        if self.refused:
            wait_s = max(1, self.reset_s)
            raise Refused(
                Code.RATE_LIMITED, f"over {self.limit} requests in a minute", detail={"retry_after_s": wait_s}
            )


class Rates:
    """The counts of one process."""

    def __init__(self, *, address_per_minute: int, session_per_minute: int) -> None:
        """Both in requests a minute."""
        self._by_address = limits.RateLimitItemPerMinute(address_per_minute, namespace="address")
        self._by_session = limits.RateLimitItemPerMinute(session_per_minute, namespace="session")
        self._limiter = limits.strategies.SlidingWindowCounterRateLimiter(limits.storage.MemoryStorage())
        self._keys: collections.OrderedDict[tuple[str, str], limits.RateLimitItem] = collections.OrderedDict()

    def count(self, *, address: str, session: str | None) -> Standing:
        """Count one request of a good session, or else of an address."""
        item, key = (self._by_address, address) if session is None else (self._by_session, session)
        self._keep(item, key)
        allowed = self._limiter.hit(item, key)
        window = self._limiter.get_window_stats(item, key)
        return Standing(
            limit=item.amount,
            remaining=window.remaining,
            reset_s=max(0, math.ceil(window.reset_time - time.time())),
            refused=not allowed,
        )

    def _keep(self, item: limits.RateLimitItem, key: str) -> None:
        self._keys[item.namespace, key] = item
        self._keys.move_to_end((item.namespace, key))
        if len(self._keys) > KEYS:
            (_, gone), of = self._keys.popitem(last=False)
            self._limiter.clear(of, gone)


class Known:
    """Hashes of the tokens that the gate took of late: what counts as a good session."""

    def __init__(self, limit: int = KEYS) -> None:
        """`limit` bounds them; a session that was pushed out is counted by address until the gate takes it again."""
        self._limit = limit
        self._key = secrets.token_bytes(32)
        self._hashes: collections.OrderedDict[str, None] = collections.OrderedDict()

    def hash(self, token: str) -> str:
        """A token's name for counters, keyed by this process."""
        return hashlib.blake2s(token.encode(), key=self._key, digest_size=16).hexdigest()

    def good(self, token: str) -> str | None:
        """Its hash if the gate took this token."""
        name = self.hash(token)
        return name if name in self._hashes else None

    def took(self, token: str) -> None:
        """The gate took it."""
        name = self.hash(token)
        self._hashes[name] = None
        self._hashes.move_to_end(name)
        if len(self._hashes) > self._limit:
            self._hashes.popitem(last=False)

    def forget(self, token: str) -> None:
        """The gate takes it no more."""
        self._hashes.pop(self.hash(token), None)


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The trusted proxies; raises ValueError for what is no network."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def client_address(peer: str | None, forwarded_for: Sequence[str], proxies: Sequence[Network]) -> str:
    """Whom to count: see the second invariant. An address that can't be read is the nearest one that can."""
    address = _address(peer or "")
    if address is None:
        return "unknown"
    hops = [hop.strip() for line in forwarded_for for hop in line.split(",")]
    while hops and any(address in network for network in proxies):
        further = _address(hops.pop())
        if further is None:
            break
        address = further
    return str(address)


def counted(address: str) -> str:
    """What of an address is counted."""
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


@functools.lru_cache(maxsize=1024)  # a caller's address is read several times a request
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def is_loopback(address: str) -> bool:
    """True for this machine's own."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback
