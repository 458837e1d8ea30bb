"""How a coroutine calls what blocks: in a thread, quietly, and given up when the coroutine is cancelled or its time is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from mainspring.sdk.progress import given_up, quiet

Q = ParamSpec("Q")
T = TypeVar("T")


async def in_thread(call: Callable[Q, T], /, *args: Q.args, **kwargs: Q.kwargs) -> T:
    """Return what a call of ours returns, made in a thread so that the event loop stays free; raises what it raises.

    When the coroutine is cancelled it ends at once, and the call at its next step: the next piece of what it reads or sends.
    What it has sent by then stays. Not for waiting: a thread is held all the while, and there are few of them.
    """
    event = threading.Event()

    def work() -> T:
        given_up.set(event)  # of a copy of the context: nobody else sees it
        with quiet():
            return call(*args, **kwargs)

    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        event.set()
        raise


async def within(timeout: float | None, what: str, work: Awaitable[T]) -> T:
    """Return what `work` gives. Raises TimeoutError that says `what` was given up after `timeout` seconds (None: no limit)."""
    try:
        async with asyncio.timeout(timeout) as limit:
            return await work
    except TimeoutError as late:
        if not limit.expired():
            raise
        raise TimeoutError(f"{what} took longer than {timeout:g} s and was given up.") from late
