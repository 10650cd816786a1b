"""What a call costs when nothing is done in it: the libraries that the house stands on, and no line of ours.

A caller here, a process that echoes, and nats-server between them; the same with HTTP. Sixteen calls are in flight. Processor time of all
processes together, since a house of ten processes on two cores is bound by that and by nothing else.
"""

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
import nats
import uvloop
from aiohttp import web

from bench.figures import Figure, micro, rate
from bench.spent import Spent
from sigilrun.embedded import binaries

WAITERS = 16
BODY = b"x" * 1_000


class Bare(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of processor time of one call over the bus, and of one over HTTP; and how many a second there were."""

    bus_s: float
    bus_rate: float
    http_s: float
    http_rate: float

    def figure(self) -> Figure:
        """One row of the page."""
        return Figure(
            what=f"a call in which nothing is done, {WAITERS} in flight: over the bus, over HTTP",
            value=f"{rate(self.bus_rate)} and {micro(self.bus_s)} of processor time, {rate(self.http_rate)} and {micro(self.http_s)}",
            bound="nats-py and nats-server; aiohttp on both sides",
        )


async def measure(long_s: float) -> Bare:
    """Both, one after the other."""
    bus_s, bus_rate = await _bus(long_s)
    http_s, http_rate = await _http(long_s)
    return Bare(bus_s=bus_s, bus_rate=bus_rate, http_s=http_s, http_rate=http_rate)


async def _bus(long_s: float) -> tuple[float, float]:
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nats.conf"
        config.write_text(f"listen: 127.0.0.1:{port}\n")
        async with _process(str(binaries.nats_server(None)), "-c", str(config)) as server:
            await _listening(port)
            async with _process(sys.executable, "-m", "bench.bare", "bus", str(port)) as echo:
                client = await nats.connect(f"nats://127.0.0.1:{port}")

                async def once() -> None:
                    await client.request("echo", BODY, timeout=5)

                await _answered(once)
                found = await _storm(once, long_s, Spent(server=server.pid, echo=echo.pid))
                await client.close()
                return found


async def _http(long_s: float) -> tuple[float, float]:
    port = _free_port()
    async with _process(sys.executable, "-m", "bench.bare", "http", str(port)) as echo:
        await _listening(port)
        async with aiohttp.ClientSession() as session:

            async def once() -> None:
                async with session.post(f"http://127.0.0.1:{port}/", data=BODY) as answer:
                    await answer.read()

            return await _storm(once, long_s, Spent(echo=echo.pid))


async def _storm(once: Callable[[], Awaitable[None]], long_s: float, spent: Spent) -> tuple[float, float]:
    until, began, done = time.perf_counter() + long_s, time.perf_counter(), 0

    async def again() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await once()
            done += 1

    await asyncio.gather(*(again() for _ in range(WAITERS)))
    return spent.all(done), done / (time.perf_counter() - began)


@contextlib.asynccontextmanager
async def _process(*argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


async def _answered(once: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(nats.errors.NoRespondersError):
                await once()
                return
            await asyncio.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _echo_bus(port: int) -> None:
    client = await nats.connect(f"nats://127.0.0.1:{port}")

    async def echo(message: nats.aio.msg.Msg) -> None:
        await message.respond(message.data)

    await client.subscribe("echo", cb=echo)
    await asyncio.Event().wait()


async def _echo_http(port: int) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run({"bus": _echo_bus, "http": _echo_http}[sys.argv[1]](int(sys.argv[2])))
