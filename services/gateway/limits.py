"""How much one caller may ask: who is counted, and what the count says.

Invariants:

- a caller with a session that the gate took is counted as that session's licence, so that opening many sessions gains nothing; everyone
  else, guessers of tokens included, as their address (of IPv6 the /64, since one owner has all of it);
- an address is the connection's, unless a trusted proxy says otherwise: then it is the last one in X-Forwarded-For that is no trusted
  proxy, and what stands before it is hearsay;
- counting costs three numbers a caller, of whom a bounded number is kept (`kept`), so neither a flood nor many addresses cost memory;
- a restart gives nobody new requests: the counts outlive it (`kept`);
- a stranger's body counts by its length: one request more for each `WEIGHT_BYTES`, since to read a megabyte of JSON takes us as long as
  some hundred requests;
- braking and quorum commands have `RESERVE` requests a minute beyond the limit.

The window slides by weighing the last minute's count with what is left of it: a list of every request's time, exact to the request,
would hold 120 000 entries a session.
"""

import collections
import functools
import ipaddress
import math
from collections.abc import Callable, Sequence

import msgspec

from services.gateway.kept import KEYS, Kept
from sigilcore import envelope, session
from sigilcore.refusals import Code, Refused

MINUTE_S = 60
RESERVE = 60
WEIGHT_BYTES = 4096
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
    """The counts of all callers."""

    def __init__(self, kept: Kept, *, address_per_minute: int, session_per_minute: int) -> None:
        """Both in requests a minute."""
        self._kept = kept
        self._limits = {"address": address_per_minute, "session": session_per_minute}

    def count(self, *, address: str, session: str | None, now_s: float, reserved: bool = False) -> Standing:
        """Count one request of a caller with a good session, or else of an address. One that is refused isn't counted: the wait ends."""
        kind, caller = ("address", address) if session is None else ("session", session)
        name, limit = self._kept.name(caller), self._limits[kind]
        window, now, before = _slid(self._kept.get(kind, name), now_s)
        left = 1 - (now_s / MINUTE_S - window)  # of this window, and so of what counts of the last one
        used = now + math.floor(before * left)
        refused = used >= limit + (RESERVE if reserved else 0)
        self._kept.put(kind, name, (window, now if refused else now + 1, before))
        # What counts now still weighs in the next window.
        reset_s = math.ceil(left * MINUTE_S) + (MINUTE_S if now >= limit else 0)
        return Standing(
            limit=limit,
            remaining=max(0, limit - used - (not refused)),
            reset_s=reset_s,
            refused=refused,
        )

    def weigh(self, *, address: str, size: int, now_s: float) -> None:
        """Count what a stranger's body was, beside the request that brought it."""
        name = self._kept.name(address)
        window, now, before = _slid(self._kept.get("address", name), now_s)
        self._kept.put("address", name, (window, now + size // WEIGHT_BYTES, before))


def _slid(count: tuple[int, int, int] | None, now_s: float) -> tuple[int, int, int]:
    """A count as it stands in the window of now. When the clock went back it counts as of now, so it is neither lost nor kept for long."""
    window = int(now_s // MINUTE_S)
    if count is None:
        return window, 0, 0
    at, now, before = count
    if at >= window:
        return window, now, before
    return window, 0, now if at == window - 1 else 0


class Known:
    """Names of the tokens that the gate took of late, each with its licence: what counts as a good session."""

    def __init__(self, name: Callable[[str], str], limit: int = KEYS) -> None:
        """`name` is a keyed hash; a session that was pushed out by the limit is counted by address until the gate takes it again."""
        self._name = name
        self._limit = limit
        self._licences: collections.OrderedDict[str, str] = collections.OrderedDict()

    def good(self, token: str) -> str | None:
        """The name of whose session it is, if the gate took this token: one for all sessions of a licence."""
        licence = self._licences.get(self._name(token))
        return None if licence is None else self._name(licence or token)

    def took(self, token: str) -> None:
        """The gate took it."""
        name = self._name(token)
        if name not in self._licences:
            self._licences[name] = _licence_of(token)
        self._licences.move_to_end(name)
        if len(self._licences) > self._limit:
            self._licences.popitem(last=False)

    def forget(self, token: str) -> None:
        """The gate takes it no more."""
        self._licences.pop(self._name(token), None)

    def end_licence(self, licence_id: str) -> None:
        """A licence was revoked: none of its sessions is good."""
        for name in [name for name, of in self._licences.items() if of == licence_id]:
            del self._licences[name]


def _licence_of(token: str) -> str:
    """Whose session it is, by what the gate has verified; none for what isn't a licence's."""
    try:
        return envelope.peek_unverified(token, session.SessionToken).licence_id
    except envelope.BadToken:
        return ""


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


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """True for an address, or a /64 of them, in one of these networks."""
    parsed = _address(address.partition("/")[0])
    return parsed is not None and any(parsed in network for network in networks)


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
