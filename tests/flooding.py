"""A flood against a real house: strangers, broken requests, and one licensed caller who asks far more than it may.

Everything comes from one address, and each hand asks again as soon as it was answered, so the house sets the pace.
"""

import asyncio
import collections
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp

from sigilrun import http

STRANGERS = ("/api/memory/list", "/api/license/list", "/log/default/checkpoint", "/nothing", "/api/canon/proof/x")
BROKEN = (
    b"junk\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Huge: " + b"a" * 30_000 + b"\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\n",
    b"POST /api/session/open HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{{{",
    b"POST /api/session/open HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50000000\r\n\r\n{",
)


class Flood:
    """What was sent, by what came back."""

    def __init__(self, address: str, token: str, *, strangers: int = 4, broken: int = 2, licensed: int = 4) -> None:
        """`token` is the licensed caller's; so many hands of each sort."""
        self.answered: collections.Counter[str] = collections.Counter()
        self._address = address
        self._token = token
        self._hands = {self._stranger: strangers, self._break: broken, self._licensed: licensed}
        self._turn = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Flood"]:
        """Flood while the block runs."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as browser:
            hands = [
                asyncio.create_task(self._again(lambda once=once: once(browser)))
                for once, count in self._hands.items()
                for _ in range(count)
            ]
            try:
                yield self
            finally:
                for hand in hands:
                    hand.cancel()
                await asyncio.gather(*hands, return_exceptions=True)

    async def sent(self, count: int) -> None:
        """Return once so many were answered."""
        while self.answered.total() < count:
            await asyncio.sleep(0.02)

    async def _again(self, once: Callable[[], Awaitable[str]]) -> None:
        while True:
            try:
                self.answered[await once()] += 1
            except (OSError, aiohttp.ClientError):
                self.answered["cut off"] += 1

    async def _stranger(self, browser: aiohttp.ClientSession) -> str:
        self._turn += 1
        path = STRANGERS[self._turn % len(STRANGERS)]
        headers = {"Authorization": f"Bearer {os.urandom(40).hex()}"} if self._turn % 2 else {}
        return await self._answer(browser.get(self._address + path, headers=headers))

    async def _licensed(self, browser: aiohttp.ClientSession) -> str:
        """Writes that are allowed, and calls above its level."""
        self._turn += 1
        command, body = ("license/list", {}) if self._turn % 2 else ("memory/write", {"key": "flood", "text": "x"})
        headers = {"Authorization": f"Bearer {self._token}"}
        return await self._answer(browser.post(f"{self._address}{http.COMMANDS}/{command}", json=body, headers=headers))

    async def _answer(self, asking: aiohttp.client._RequestContextManager) -> str:
        async with asking as reply:
            said = await reply.json(content_type=None) if reply.status >= 400 else {}
            return str(said.get("code", reply.status))

    async def _break(self, _: aiohttp.ClientSession) -> str:
        self._turn += 1
        where = urlsplit(self._address)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            writer.write(BROKEN[self._turn % len(BROKEN)])
            async with asyncio.timeout(5):
                line = await reader.readline()
            return line.decode("latin-1").strip() or "cut off"
        except TimeoutError:
            return "no answer"
        finally:
            writer.close()
