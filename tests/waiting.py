"""Waiting for something that can be seen, instead of for time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(question: Callable[[], bool | Awaitable[bool]], within_s: float = 20.0) -> None:
    """Return once the answer is yes; fails by time-out when it never is."""
    async with asyncio.timeout(within_s):
        while True:
            answer = question()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.01)
