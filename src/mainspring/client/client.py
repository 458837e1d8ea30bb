"""`Client`: one attribute for each noun, all over one transport; `AsyncClient`: what a coroutine would await."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

import httpx2

from mainspring.client.blobs import Blobs
from mainspring.client.clusters import Clusters
from mainspring.client.datasets import Datasets
from mainspring.client.endpoints import Endpoints, path_of
from mainspring.client.environments import Environments
from mainspring.client.forecasts import Forecasts
from mainspring.client.machines import Machines
from mainspring.client.models import Models
from mainspring.client.people import People
from mainspring.client.pipelines import Pipelines
from mainspring.client.plans import Plans
from mainspring.client.policies import Policies
from mainspring.client.runs import POLL_S, Runs
from mainspring.client.shares import Shares
from mainspring.client.streams import follow_log_async
from mainspring.client.sweeps import Sweeps
from mainspring.client.transport import AsyncTransport, Transport
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Run


@dataclass(slots=True)
class Client:
    """A connection to one server. Thread safe. `home` is the installation's folder, None for a remote server."""

    transport: Transport
    home: Path | None = None
    runs: Runs = field(init=False)
    blobs: Blobs = field(init=False)
    datasets: Datasets = field(init=False)
    models: Models = field(init=False)
    endpoints: Endpoints = field(init=False)
    sweeps: Sweeps = field(init=False)
    pipelines: Pipelines = field(init=False)
    clusters: Clusters = field(init=False)
    people: People = field(init=False)
    shares: Shares = field(init=False)
    machines: Machines = field(init=False)
    policies: Policies = field(init=False)
    plans: Plans = field(init=False)
    forecasts: Forecasts = field(init=False)
    environments: Environments = field(init=False)
    _of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Give each noun the transport."""
        self.runs = Runs(self.transport)
        self.environments = Environments(self.transport)
        self.blobs = Blobs(self.transport)
        self.datasets = Datasets(self.transport)
        self.models = Models(self.transport)
        self.endpoints = Endpoints(self.transport)
        self.sweeps = Sweeps(self.transport)
        self.pipelines = Pipelines(self.transport)
        self.clusters = Clusters(self.transport)
        self.people = People(self.transport)
        self.shares = Shares(self.transport)
        self.machines = Machines(self.transport)
        self.policies = Policies(self.transport)
        self.plans = Plans(self.transport)
        self.forecasts = Forecasts(self.transport)
        self._of_loop = WeakKeyDictionary()

    @classmethod
    def open(
        cls, url: str, token: str, *, home: Path | None = None, inner: httpx2.BaseTransport | None = None, certificate: str = ""
    ) -> Client:
        """Return a client of the server at `url`; `inner` replaces the network (tests), `certificate` (PEM) is its own."""
        return cls(Transport.open(url, token, inner=inner, certificate=certificate), home)

    @property
    def url(self) -> str:
        """Return the server's address."""
        return self.transport.url

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def asynchronous(self) -> AsyncClient:
        """Return the asynchronous client of the running event loop; the same one each time."""
        loop = asyncio.get_running_loop()
        found = self._of_loop.get(loop)
        if found is None:
            found = AsyncClient(
                AsyncTransport.open(self.transport.url, self.transport.token, certificate=self.transport.certificate)
            )
            self._of_loop[loop] = found
        return found


@dataclass(frozen=True, slots=True)
class AsyncClient:
    """Waiting, following and predicting without a thread."""

    transport: AsyncTransport

    async def wait(self, run: str, timeout_s: float | None = None) -> Run:
        """Return the run when it is done, or as it stands after `timeout_s`."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = POLL_S if until is None else max(0.0, min(POLL_S, until - time.monotonic()))
            answer = await self.transport.send("GET", f"/runs/{quote(run, safe='')}/wait", query={"timeout_s": f"{left:.3f}"})
            found = answer.record(Run)
            if found.state in TERMINAL_RUN or (until is not None and time.monotonic() >= until):
                return found

    async def logs(self, run: str) -> AsyncIterator[bytes]:
        """Yield the log as it is written, until the run ends."""
        async for part in follow_log_async(self.transport, run):
            if part.data:
                yield part.data

    async def predict(self, name: str, records: Sequence[Mapping[str, object]], *, project: str = "default") -> list[Any]:
        """Return an endpoint's predictions in the order of `records`."""
        body = {"records": [dict(one) for one in records]}
        answer = await self.transport.send(
            "POST", path_of(name, "predict"), body=body, query={"project": project}, is_repeatable=True
        )
        return list(answer.plain()["predictions"])
