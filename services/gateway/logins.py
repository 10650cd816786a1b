"""Failed logins: who must wait before the next one, and how long.

A login that fails costs the house signature checks, and is what guessing looks like. Invariants:

- after `tries` failures an address waits a second, then two, then four, up to `MOST_S`; each `FORGET_S` of quiet forgives one failure,
  a success none: else whoever has a licence of their own would guess at others' for nothing;
- failures of one licence count together, wherever they come from, so many addresses gain one try each; but only an address that failed
  with it waits for it. So nobody can keep an owner out by failing in their name;
- an attempt during the wait is refused unread and counts for nothing: the wait ends;
- the counts outlive the process (`kept`).

A peer's opening is a login like any other: it costs a signature check, and its node's key stands where a licence does. Documents that
are no licences or openings at all are the rate limit's business.
"""

from typing import Any

import msgspec

from services.gateway.kept import Kept
from sigilcore import envelope, licence, peers
from sigilcore.contracts import gatekeeper, license
from sigilcore.contracts.command import Command
from sigilcore.refusals import Code, Refused

MOST_S = 60
FORGET_S = 120
_FAILED = frozenset(
    {
        Code.LICENSE_INVALID,
        Code.CERTIFICATE_INVALID,
        Code.BOOTSTRAP_REFUSED,
        Code.PEER_INVALID,
        Code.SIGNATURE_INVALID,
    }
)
_ADDRESS, _LICENCE, _PAIR = "login address", "login licence", "login pair"


class _Presented(msgspec.Struct, frozen=True):
    """Of `session/open`, the licence alone."""

    license: str = ""


class _Opening(msgspec.Struct, frozen=True):
    """All of `session/peer`."""

    opening: str = ""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody shows a secret."""

    address: str
    licence: str | None  # its id, or a peer's; None where what is shown is neither


def attempt(command: Command[Any, Any], body: bytes, address: str) -> Attempt | None:
    """What a call attempts, if it is a login with something that reads as a licence or a peer's opening, or shows the bootstrap token."""
    if command is license.BOOTSTRAP:
        return Attempt(address=address, licence=None)
    shows = _SHOWN.get(command.name)
    try:
        return None if shows is None else Attempt(address=address, licence=shows(body))
    except (ValueError, RecursionError, envelope.BadToken):
        return None


def _licence_shown(body: bytes) -> str:
    return licence.parse(msgspec.json.decode(body, type=_Presented).license).license.id


def _peer_shown(body: bytes) -> str:
    opening = msgspec.json.decode(body, type=_Opening).opening
    return f"{peers.OWNER_PREFIX}{envelope.peek_unverified(opening, peers.PeerSession).node_key}"


_SHOWN = {gatekeeper.OPEN.name: _licence_shown, gatekeeper.PEER.name: _peer_shown}


class Logins:
    """The failures of late."""

    def __init__(self, kept: Kept, *, tries: int) -> None:
        """`tries` failures cost nothing."""
        self._kept = kept
        self._tries = tries

    def check(self, attempt: Attempt, now_s: float) -> None:
        """Raises `Refused`: RATE_LIMITED, with the seconds to wait."""
        wait_s = self._wait_s(_ADDRESS, attempt.address, now_s)
        if attempt.licence is not None and self._failures(_PAIR, _pair(attempt), now_s):
            wait_s = max(wait_s, self._wait_s(_LICENCE, attempt.licence, now_s))
        if wait_s > 0:
            raise Refused(
                Code.RATE_LIMITED,
                "too many logins failed; each further one waits longer",
                detail={"retry_after_s": wait_s},
            )

    def failed(self, attempt: Attempt, code: Code, now_s: float) -> None:
        """Count it, if what was shown was no good."""
        if code not in _FAILED:
            return
        names = [(_ADDRESS, attempt.address)]
        if attempt.licence is not None:
            names += [(_LICENCE, attempt.licence), (_PAIR, _pair(attempt))]
        for kind, text in names:
            failures = self._failures(kind, text, now_s) + 1
            self._kept.put(kind, self._kept.name(text), (int(now_s), failures, 0))

    def _failures(self, kind: str, text: str, now_s: float) -> int:
        """Those that aren't forgiven yet. A clock that went back forgives nothing."""
        at_s, failures, _ = self._kept.get(kind, self._kept.name(text)) or (0, 0, 0)
        return max(0, failures - max(0, int(now_s) - at_s) // FORGET_S)

    def _wait_s(self, kind: str, text: str, now_s: float) -> int:
        at_s, failures, _ = self._kept.get(kind, self._kept.name(text)) or (0, 0, 0)
        beyond = failures - self._tries
        if beyond < 0:
            return 0
        since_s = min(max(0, int(now_s) - at_s), MOST_S)
        wait_s = min(1 << min(beyond, 10), MOST_S)
        return max(0, wait_s - since_s)


def _pair(attempt: Attempt) -> str:
    return f"{attempt.address} {attempt.licence}"
