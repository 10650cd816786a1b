"""Calls to peers over HTTP: a session by this node's key, a proof on each call, the grant that its owner gave us.

A peer is somebody else's machine. It may be slow, answer too much, lie, send us elsewhere, or not be itself: a call has a time, an answer a
size and a declared shape, no redirection is followed, no proxy of the environment is used, and the challenge must come from the deployment
that was enrolled before anything is signed for it. Only enrolled addresses are ever connected to; their hosts are named by Root, by
`https` except on loopback, so that a name that is bent to another machine ends at the certificate.
"""

import asyncio
from typing import Any

import aiohttp
import msgspec

from services.grid.rules import Outgoing
from sigilcore import canonical, signing
from sigilcore.faults import Fault
from sigilcore.refusals import Code, Refused
from sigilrun import http

MOST_BYTES = 4 * 1024 * 1024  # of an answer; the largest page of ours is below
CALL_S = 25.0  # for session and call together; the command itself may run thirty
SESSION_MS = 60 * 60 * 1000
MOST_PEERS = 64  # connections and sessions kept; beyond it the longest unused goes

_OVER = frozenset(
    {Code.SESSION_INVALID, Code.SESSION_EXPIRED, Code.SESSION_CLOSED, Code.SESSION_MISSING, Code.PEER_INVALID}
)


class Silent(Exception):  # noqa: N818 - what is the matter
    """The peer can't be reached, isn't itself, or answers nonsense."""


class Caller:
    """The ways to peers, each with its session; kept by address and deployment, so a new enrolment has a new one."""

    def __init__(self, node: signing.Signer) -> None:
        """`node` signs openings with this node's key."""
        self._node = node
        self._ways: dict[tuple[str, str, str], _Way] = {}

    async def ask(self, going: Outgoing, parameters: dict[str, Any]) -> dict[str, Any]:
        """The reply, held to the command's declaration.

        Raises:
            Refused: the peer said no; the code is the peer's.
            Silent: there was no answer that counts.

        """
        way = await self._way(going)
        try:
            async with asyncio.timeout(CALL_S):
                data = await way.send(going, http.parameter_bytes(parameters))
        except (http.Unreachable, Fault, TimeoutError, aiohttp.ClientError, canonical.NotCanonical) as error:
            raise Silent(f"{type(error).__name__}: {error}") from error
        try:
            reply = msgspec.json.decode(data, type=going.command.reply)
            told = msgspec.to_builtins(reply)
            canonical.encode(told, max_bytes=None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, canonical.NotCanonical) as error:
            raise Silent(f"{going.command.name} isn't answered as declared: {error}") from error
        assert isinstance(told, dict)
        return told

    async def close(self) -> None:
        """Close every connection."""
        while self._ways:
            await self._ways.popitem()[1].close()

    async def _way(self, going: Outgoing) -> "_Way":
        key = (going.reach.address, going.reach.runtime_id, going.reach.canon_fingerprint)
        way = self._ways.pop(key, None) or _Way(self._node, going)
        self._ways[key] = way
        if len(self._ways) > MOST_PEERS:
            await self._ways.pop(next(iter(self._ways))).close()
        return way


class _Way:
    """One peer's address, and the session that is open there."""

    def __init__(self, node: signing.Signer, going: Outgoing) -> None:
        self._node = node
        self._reach = going.reach
        self._client = http.Client(going.reach.address, timeout_s=CALL_S, most_bytes=MOST_BYTES)
        self._opening = asyncio.Lock()
        self._connected = False

    async def send(self, going: Outgoing, body: bytes) -> bytes:
        """Ask; once more with a new session if the old one is over there."""
        token = None if going.grant is None else going.grant.token
        opened = await self._open(None)
        try:
            return await self._client.send(going.command, body, grant=token)
        except Refused as refused:
            if refused.code not in _OVER:
                raise
        await self._open(opened)
        return await self._client.send(going.command, body, grant=token)

    async def _open(self, stale: http.Session | None) -> http.Session:
        async with self._opening:
            if not self._connected:
                await self._client.__aenter__()
                self._connected = True
            held = self._client.session
            if held is None or held is stale:
                held = await self._client.greet(
                    self._node,
                    runtime_id=self._reach.runtime_id,
                    canon_fingerprint=self._reach.canon_fingerprint,
                    session_ms=SESSION_MS,
                )
            return held

    async def close(self) -> None:
        if self._connected:
            await self._client.__aexit__()
