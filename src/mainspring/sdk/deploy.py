"""`ms.deploy`: a model becomes an endpoint; the handle predicts, shows, rolls back, stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.client.endpoints import EndpointView
from mainspring.core.errors import StateError, UnsupportedError, UsageError
from mainspring.core.records import EndpointState
from mainspring.sdk.awaiting import in_thread
from mainspring.sdk.models import Model
from mainspring.sdk.progress import Progress
from mainspring.sdk.recording import StepResult, active

READY_S = 120.0
POLL_S = 0.1


class Endpoint:
    """A named address that serves a model."""

    def __init__(self, client: Client, name: str, project: str) -> None:
        self._client = client
        self.name = name
        self.project = project

    @property
    def view(self) -> EndpointView:
        """Return the endpoint's record, revisions and addresses as they are now."""
        return self._client.endpoints.get(self.name, project=self.project)

    @property
    def state(self) -> str:
        """Return starting, ready, failing or stopped."""
        return str(self.view.endpoint.state)

    @property
    def revision(self) -> int:
        """Return the number of the live revision."""
        return self.view.endpoint.revision

    @property
    def url(self) -> str:
        """Return the address that takes `{"records": [...]}` by POST with a token."""
        return f"{self._client.url}/api/v1/endpoints/{self.name}/predict"

    def predict(self, records: Sequence[Mapping[str, object]]) -> list[Any]:
        """Return the predictions in the order of `records` (dictionaries, or a frame)."""
        return self._client.endpoints.predict(self.name, _records(records), project=self.project)[0]

    async def predict_async(self, records: Sequence[Mapping[str, object]]) -> list[Any]:
        """Return the predictions without blocking the event loop."""
        return await self._client.asynchronous().predict(self.name, _records(records), project=self.project)

    def wait(self, timeout: float = READY_S) -> Endpoint:
        """Block until the endpoint is ready, with live progress on a terminal. Raises StateError when it fails, TimeoutError."""
        until = time.monotonic() + timeout
        with Progress(f"Deploying {self.name}") as progress:
            while (view := self._unready(until, timeout)) is not None:
                progress.update(0, f"{view.endpoint.state}: {view.endpoint.message}".rstrip(": "))
                time.sleep(POLL_S)
        return self

    async def wait_async(self, timeout: float = READY_S) -> Endpoint:
        """Wait until the endpoint is ready without blocking the event loop. Raises StateError when it fails, TimeoutError."""
        until = time.monotonic() + timeout
        while await in_thread(self._unready, until, timeout) is not None:
            await asyncio.sleep(POLL_S)
        return self

    def _unready(self, until: float, timeout: float) -> EndpointView | None:
        """Return the endpoint as it is while it is not ready."""
        view = self.view
        match view.endpoint.state:
            case EndpointState.READY if view.addresses:
                return None
            case EndpointState.FAILING | EndpointState.STOPPED:
                raise StateError(
                    f"Endpoint {self.name} is {view.endpoint.state}: {view.endpoint.message}",
                    hint=f"mainspring endpoint show {self.name}",
                )
            case _:
                pass
        if time.monotonic() > until:
            raise TimeoutError(f"Endpoint {self.name} is still {view.endpoint.state} after {timeout:g} s.")
        return view

    def lineage(self) -> dict[str, Any]:
        """Return `{nodes, edges}` from the endpoint down to the digests of files."""
        return self._client.endpoints.lineage(self.name, project=self.project)

    def rollback(self, to: int | None = None) -> Endpoint:
        """Serve an earlier revision's model again (the one before by default); does not wait."""
        self._client.endpoints.rollback(self.name, to=to, project=self.project)
        return self

    def stop(self) -> None:
        """Stop serving; the history stays."""
        self._client.endpoints.stop(self.name, project=self.project)

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"


def deploy(
    model: Model | str,
    *,
    name: str,
    replicas: int | tuple[int, int] = 1,
    pool: str | None = None,
    canary: Sequence[int] | None = None,
    wait: bool = True,
    timeout: float = READY_S,
    project: str = "default",
) -> Endpoint:
    """Serve a model (`delays@champion`, or a Model, which is registered first under the endpoint's name) and wait for it.

    Replicas go to nodes of `pool`; None: where the endpoint's replicas are now, for a new one anywhere. Each call makes a new
    revision, also of the same model. Blocks until it is ready, with live progress on a terminal, or with `wait=False` until
    that is asked for. Raises StateError when it does not come up, TimeoutError (it goes on afterwards), NotFoundError for a
    model that is not there; UnsupportedError for canaries and ranges of replicas.
    """
    if canary is not None:
        raise UnsupportedError("Canary roll-outs are not part of this version.", hint="endpoint.rollback() goes back.")
    if isinstance(replicas, tuple):
        raise UnsupportedError("Autoscaling is not part of this version.", hint="Give a number: replicas=2")
    recorder = active.get()
    if recorder is not None:
        if not isinstance(model, StepResult):
            raise UsageError("Inside a pipeline ms.deploy takes the result of a step.", hint="ms.deploy(train(...), name=...)")
        if pool is not None:
            told = f"mainspring deploy MODEL --name {name} --pool POOL, once: the pipeline's revisions stay there"
            raise UsageError("Inside a pipeline ms.deploy takes no pool.", hint=told)
        made: Any = recorder.add_deploy(model, name, replicas, "")
        result: Endpoint = made
        return result
    client = connect()
    reference = model
    if isinstance(model, Model):
        reference = (model if model.version else model.register(model.name or name, project=project)).reference
    if not isinstance(reference, str):
        raise UsageError(f"A {type(model).__name__} cannot be deployed.", hint="ms.Model(estimator, sample=X), or 'name@alias'")
    client.endpoints.deploy(name, reference, replicas=replicas, pool=pool, project=project)
    endpoint = Endpoint(client, name, project)
    return endpoint.wait(timeout) if wait else endpoint


async def deploy_async(
    model: Model | str,
    *,
    name: str,
    replicas: int | tuple[int, int] = 1,
    pool: str | None = None,
    canary: Sequence[int] | None = None,
    wait: bool = True,
    timeout: float = READY_S,
    project: str = "default",
) -> Endpoint:
    """Serve a model as `deploy` does, without blocking the event loop; `timeout` seconds are for the waiting.

    One that is cancelled may have made the revision, which goes on. Raises as `deploy`.
    """
    made = await in_thread(
        deploy, model, name=name, replicas=replicas, pool=pool, canary=canary, wait=False, timeout=timeout, project=project
    )
    return await made.wait_async(timeout) if wait else made


def endpoint(name: str, *, project: str = "default") -> Endpoint:
    """Return an endpoint that is there. Raises NotFoundError."""
    found = Endpoint(connect(), name, project)
    _ = found.view
    return found


def _records(records: Any) -> list[Mapping[str, object]]:
    if hasattr(records, "to_dict") and hasattr(records, "columns"):
        return list(records.to_dict("records"))
    return [{str(key): _plain(value) for key, value in one.items()} for one in records]


def _plain(value: Any) -> object:
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else value
