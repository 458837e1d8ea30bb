"""Micro-batching that never waits: a request that finds the model idle runs at once; those that come meanwhile run as one.

One thread runs the model, so that a slow model leaves the event loop free for health checks and for collecting the next batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mainspring.serving.models import Array, Run, Tensors

MAX_BATCH_ROWS = 10_000


class Batcher:
    """Runs requests through one thread. Belongs to one event loop; `run` is called on it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: deque[tuple[Tensors, asyncio.Future[dict[str, Array]]]] = deque()
        self._drainer: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def run(self, tensors: Tensors) -> dict[str, Array]:
        """Return the outputs for `tensors`, computed alone or with others. Raises what the model raises."""
        future: asyncio.Future[dict[str, Array]] = asyncio.get_running_loop().create_future()
        self._waiting.append((tensors, future))
        if self._drainer is None or self._drainer.done():
            self._drainer = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            await self._next()

    async def _next(self) -> None:
        batch = [self._waiting.popleft()]
        rows = _rows(batch[0][0])
        while self._waiting and rows + _rows(self._waiting[0][0]) <= MAX_BATCH_ROWS:
            batch.append(self._waiting.popleft())
            rows += _rows(batch[-1][0])
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._pool, self._together, [tensors for tensors, _ in batch])
        except Exception as wrong:  # handed to each request of the batch, which answers for it
            if len(batch) == 1:
                _settle(batch[0][1], None, wrong)
                return
            for tensors, future in batch:  # one bad row must not spoil the others'
                try:
                    _settle(future, await loop.run_in_executor(self._pool, self._run, tensors), None)
                except Exception as own:  # as above
                    _settle(future, None, own)
            return
        for (_, future), output in zip(batch, outputs, strict=True):
            _settle(future, output, None)

    def _together(self, requests: list[Tensors]) -> list[dict[str, Array]]:
        if len(requests) == 1:
            return [self._run(requests[0])]
        joined = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
        outputs = self._run(joined)
        cuts = np.cumsum([_rows(request) for request in requests])[:-1]
        parts = {name: np.split(value, cuts) for name, value in outputs.items()}
        return [{name: parts[name][at] for name in outputs} for at in range(len(requests))]


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))


def _settle(future: asyncio.Future[dict[str, Array]], output: dict[str, Array] | None, wrong: Exception | None) -> None:
    if future.done():  # the client went away
        return
    if wrong is not None:
        future.set_exception(wrong)
    elif output is not None:
        future.set_result(output)
