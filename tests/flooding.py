"""A flood against a real house: strangers, broken requests, and one licensed caller who asks far more than it may; and, from addresses of
their own, logins and attests that are well formed, which need no permit and partly have room of their own.

Each hand asks again as soon as it was answered, so the house sets the pace.
"""

import asyncio
import collections
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sigilrun.faces.routes import PREFIX

STRANGERS = ("/api/memory/list", "/api/license/list", "/log/default/checkpoint", "/nothing", "/api/canon/proof/x")
BROKEN = (
    b"junk\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Huge: " + b"a" * 30_000 + b"\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\n",
    b"POST /api/session/open HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{{{",
    b"POST /api/session/open HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50000000\r\n\r\n{",
)


Body = Callable[[str], Mapping[str, Any]]
NOTHING: Mapping[str, Body] = MappingProxyType({})


def _from(source: str | None) -> aiohttp.ClientSession:
    """A browser, at an address of this machine's own."""
    local = None if source is None else (source, 0)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, local_addr=local))


class Flood:
    """What was sent, by what came back."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        strangers: int = 4,
        broken: int = 2,
        licensed: int = 4,
        well_formed: Mapping[str, Body] = NOTHING,
        addresses: int = 8,
    ) -> None:
        """`token` is the licensed caller's; so many hands of each sort. `well_formed`: by command a body, made with a fresh nonce; each is
        sent from so many addresses."""
        self.answered: collections.Counter[str] = collections.Counter()
        self._address = address
        self._token = token
        self._hands = {self._stranger: strangers, self._break: broken, self._licensed: licensed}
        self._well_formed = well_formed
        self._addresses = addresses
        self.answers: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in well_formed}
        self._turn = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Flood"]:
        """Flood while the block runs."""
        async with contextlib.AsyncExitStack() as stack:
            browser = await stack.enter_async_context(_from(None))
            hands = [
                asyncio.create_task(self._again(lambda once=once: once(browser)))
                for once, count in self._hands.items()
                for _ in range(count)
            ]
            for number in range(self._addresses if self._well_formed else 0):
                other = await stack.enter_async_context(_from(f"127.0.1.{number + 1}"))
                hands += [
                    asyncio.create_task(self._again(lambda name=name, other=other: self._forge(other, name)))
                    for name in self._well_formed
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
        return await self._answer(browser.post(f"{self._address}{PREFIX}{command}", json=body, headers=headers))

    async def _forge(self, browser: aiohttp.ClientSession, command: str) -> str:
        """A nonce, and what is made with it; where the one isn't to be had, the other is sent with an old one."""
        async with browser.post(f"{self._address}{PREFIX}session/challenge", json={}) as asked:
            told = await asked.json(content_type=None)
        body = self._well_formed[command](told.get("nonce", "n.n"))
        answer = await self._answer(browser.post(f"{self._address}{PREFIX}{command}", json=body))
        self.answers[command][answer] += 1
        return answer

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
