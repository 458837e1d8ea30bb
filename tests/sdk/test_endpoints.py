"""Waiting for an endpoint on an event loop: until it is ready, fails, or the time is over, with the loop free meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from mainspring.client.client import Client
from mainspring.core.codec import decode_any, encode
from mainspring.core.errors import NotFoundError, StateError, UnsupportedError
from mainspring.core.records import Endpoint as Record
from mainspring.core.records import EndpointState
from mainspring.sdk import deploy
from mainspring.sdk.deploy import Endpoint


def record(state: EndpointState) -> Record:
    return Record(
        id="endpoint-1",
        project="default",
        name="sums",
        created_by="ada",
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        state=state,
        message="exit 3" if state is EndpointState.FAILING else "",
    )


Told = tuple[EndpointState, tuple[str, ...]]
STARTING: Told = (EndpointState.STARTING, ())
READY: Told = (EndpointState.READY, ("127.0.0.1:4000",))


@pytest.fixture
def endpoint_of(tmp_path: Path) -> Callable[..., Endpoint]:
    """Return the handle of an endpoint whose server tells these states one after another, the last one for ever."""

    def made(*told: Told) -> Endpoint:
        left = list(told)

        def answer(request: httpx2.Request) -> httpx2.Response:
            if request.method == "POST" and request.url.path == "/api/v1/endpoints":
                return httpx2.Response(201, json=decode_any(encode(record(EndpointState.STARTING))))
            if request.url.path != "/api/v1/endpoints/sums":
                return httpx2.Response(404, json={"error": {"code": "not_found", "message": "There is no endpoint."}})
            state, addresses = left.pop(0) if len(left) > 1 else left[0]
            return httpx2.Response(200, json={**decode_any(encode(record(state))), "revisions": [], "addresses": addresses})

        client = Client.open("http://server", "secret", home=tmp_path / "home", inner=httpx2.MockTransport(answer))
        return Endpoint(client, "sums", "default")

    return made


def test_it_is_waited_for_without_holding_the_event_loop(endpoint_of: Callable[..., Endpoint]) -> None:
    async def both() -> int:
        turns = 0
        waiting = asyncio.ensure_future(endpoint.wait_async(timeout=60))
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)
        assert await waiting is endpoint
        return turns

    endpoint = endpoint_of(STARTING, STARTING, (EndpointState.READY, ()), READY)  # ready is not enough: somebody must answer
    assert asyncio.run(both()) > 10
    assert endpoint.view.addresses == READY[1]


def test_a_model_is_deployed_without_holding_the_event_loop(
    endpoint_of: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = endpoint_of(STARTING, STARTING, READY)._client
    monkeypatch.setattr(deploy, "connect", lambda: client)
    made = asyncio.run(deploy.deploy_async("delays@champion", name="sums", timeout=60))
    assert (made.name, made.state) == ("sums", "ready")
    client = endpoint_of(STARTING)._client
    with pytest.raises(TimeoutError, match="still starting after 0 s"):
        asyncio.run(deploy.deploy_async("delays@champion", name="sums", timeout=0))
    with pytest.raises(UnsupportedError, match="Canary"):
        asyncio.run(deploy.deploy_async("delays@champion", name="sums", canary=[5]))


@pytest.mark.parametrize("state", [EndpointState.FAILING, EndpointState.STOPPED])
def test_one_that_fails_or_is_stopped_is_not_waited_for(endpoint_of: Callable[..., Endpoint], state: EndpointState) -> None:
    with pytest.raises(StateError, match=f"sums is {state}") as failed:
        asyncio.run(endpoint_of(STARTING, (state, ())).wait_async())
    assert "mainspring endpoint show sums" in failed.value.hint


def test_the_time_to_wait_is_kept(endpoint_of: Callable[..., Endpoint]) -> None:
    with pytest.raises(TimeoutError, match="still starting after 0 s"):
        asyncio.run(endpoint_of(STARTING).wait_async(timeout=0))


def test_one_that_is_not_there_is_told_at_once(endpoint_of: Callable[..., Endpoint]) -> None:
    missing = endpoint_of(READY)
    missing.name = "other"
    with pytest.raises(NotFoundError):
        asyncio.run(missing.wait_async())
