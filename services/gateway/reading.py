"""Reading a request: its body, bounded in bytes and time; and whose connection it came over."""

import asyncio
from collections.abc import Sequence

from aiohttp import hdrs, web

from services.gateway import limits
from sigilcore.refusals import Code, Refused
from sigilrun.faces.routes import JSON

FORWARDED_FOR = "X-Forwarded-For"
SAFE = frozenset({"GET", "HEAD"})


async def body(request: web.BaseRequest, *, most_bytes: int, timeout_s: float) -> bytes:
    """The body; none is b"". Raises `Refused` for one that is too large, too slow, no JSON, or where none belongs."""
    if not request.can_read_body:
        return b""
    if request.method in SAFE:
        raise Refused(Code.BAD_INPUT, f"{request.method} takes no body")
    if request.content_length is not None and request.content_length > most_bytes:
        raise Refused(Code.BODY_TOO_LARGE, f"at most {most_bytes} bytes")
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself hasn't begun
    try:
        async with asyncio.timeout(timeout_s):
            data = await _at_most(request, most_bytes)
    except TimeoutError:
        raise Refused(Code.BAD_INPUT, f"the body took over {timeout_s} s") from None
    except web.RequestPayloadError:
        raise Refused(Code.BAD_INPUT, "the body is not what its head says") from None
    if data:
        _check_media(request)
    return data


async def _at_most(request: web.BaseRequest, most_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > most_bytes:
            raise Refused(Code.BODY_TOO_LARGE, f"at most {most_bytes} bytes")
    return bytes(data)


def _check_media(request: web.BaseRequest) -> None:
    if request.content_type != JSON or (request.charset or "utf-8").lower() != "utf-8":
        raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, f"a body is {JSON} in UTF-8", field="Content-Type")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, "a body is not compressed", field="Content-Encoding")


def address(request: web.BaseRequest, proxies: Sequence[limits.Network]) -> str:
    """Whom the request comes from."""
    return limits.client_address(request.remote, request.headers.getall(FORWARDED_FOR, []), proxies)


def is_neighbour(request: web.BaseRequest, proxies: Sequence[limits.Network]) -> bool:
    """True if it comes from this machine, asks this machine by its own address, and nobody in between says that it speaks for another.

    A browser that was led here by another's host name (DNS rebinding) comes from this machine too; it names that host.
    """
    if not limits.is_loopback(address(request, proxies)) or not _is_own_name(request.headers.get(hdrs.HOST, "")):
        return False
    return not any(name in request.headers for name in (FORWARDED_FOR, "Forwarded", "X-Real-IP"))


def _is_own_name(host: str) -> bool:
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or limits.is_loopback(name)
