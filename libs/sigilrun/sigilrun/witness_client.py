"""The log's side of C2SP tlog-witness: asking a cosigner over HTTP. What the answers mean is decided elsewhere; here they have bounds.

A cosigner is somebody else's machine. It may be slow, answer too much or send us elsewhere: an answer has a time and a size, and no
redirection is followed.
"""

import hashlib
from types import TracebackType
from typing import Final, Self

import aiohttp
import msgspec

from sigilcore.checkpoint import AddCheckpoint

TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 65_536  # a note with a hundred signatures is below 20 KiB
_READ_BYTES: Final = 4_096


class NoAnswer(Exception):  # noqa: N818 - what is the matter
    """The cosigner can't be reached, or what it sent is no answer."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a cosigner said."""

    status: int
    content_type: str
    body: bytes


class Client:
    """Asks cosigners; used as a context."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Connections are opened as they are needed."""
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def add_checkpoint(self, url: str, request: AddCheckpoint) -> Answer:
        """`POST <url>/add-checkpoint`. Raises `NoAnswer`."""
        return await self._ask("POST", f"{url.rstrip('/')}/add-checkpoint", request.encode())

    async def newest(self, url: str, origin: str) -> bytes | None:
        """What the cosigner shows to monitors of this log; None if nothing. Raises `NoAnswer`."""
        hashed = hashlib.sha256(origin.encode()).hexdigest()
        answer = await self._ask("GET", f"{url.rstrip('/')}/{hashed}/checkpoint", None)
        return answer.body if answer.status == 200 else None

    async def _ask(self, method: str, url: str, body: bytes | None) -> Answer:
        assert self._http is not None, "used outside of its block"
        try:
            async with self._http.request(method, url, data=body, allow_redirects=False) as answer:
                data = bytearray()
                async for chunk in answer.content.iter_chunked(_READ_BYTES):
                    data += chunk
                    if len(data) > MAX_ANSWER_BYTES:
                        raise NoAnswer(f"{url} answers more than {MAX_ANSWER_BYTES} bytes")
                return Answer(status=answer.status, content_type=answer.content_type, body=bytes(data))
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise NoAnswer(f"{url}: {type(error).__name__}: {error}") from error
