"""Retries, idempotency, error mapping."""

from __future__ import annotations

import httpx2
import pytest

from mainspring.client.client import Client
from mainspring.core.errors import (
    CannotFitError,
    NotFoundError,
    ServerError,
    ServerUnreachableError,
    VersionMismatchError,
)


def test_a_read_is_repeated_until_the_server_is_back(scripted, reply):
    scripted.answers = [httpx2.ReadError("gone"), reply(503), httpx2.ConnectError("no"), reply(200, {"name": "ann"})]
    assert scripted.client().people.whoami() == {"name": "ann"}
    assert len(scripted.pauses) == 3


def test_every_request_carries_token_and_protocol(scripted, reply):
    scripted.answers = [reply(200, {"name": "ann"})]
    scripted.client().people.whoami()
    headers = scripted.seen[0].headers
    assert headers["authorization"] == "Bearer secret"
    assert headers["mainspring-protocol"] == "1"


def test_what_the_server_says_about_waiting_is_obeyed(scripted, reply):
    scripted.answers = [reply(429, headers={"Retry-After": "3"}), reply(200, {})]
    scripted.client().people.whoami()
    assert 3 <= scripted.pauses[0] < 3.2


def test_a_post_with_a_key_is_repeated_with_the_same_key(scripted, reply):
    scripted.answers = [httpx2.ReadError("the answer was lost"), reply(201, _sweep())]
    scripted.client().sweeps.start(_sweep_spec())
    keys = [request.headers["idempotency-key"] for request in scripted.seen]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_post_without_a_key_is_never_sent_twice_once_it_may_have_arrived(scripted, reply):
    scripted.answers = [httpx2.ReadError("the answer was lost"), reply(201, {})]
    with pytest.raises(ServerUnreachableError):
        scripted.client().people.add_user("bob")
    assert len(scripted.seen) == 1


def test_a_post_without_a_key_is_repeated_when_nothing_was_connected(scripted, reply):
    made = {"name": "bob", "created_at": "2026-01-01T00:00:00Z", "is_admin": False, "disabled_at": None}
    scripted.answers = [httpx2.ConnectError("refused"), reply(201, made)]
    assert scripted.client().people.add_user("bob").name == "bob"


def test_errors_come_back_as_their_classes(scripted, reply):
    body = {"error": {"code": "cannot_fit", "message": "too big", "hint": "ask for less", "details": {"gpus": 2}}}
    scripted.answers = [reply(422, body)]
    with pytest.raises(CannotFitError) as caught:
        scripted.client().people.whoami()
    assert (caught.value.hint, caught.value.details) == ("ask for less", {"gpus": 2})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (426, {"error": {"code": "version_mismatch", "message": "protocol 2"}}, VersionMismatchError),
        (404, {"error": {"code": "not_found", "message": "no"}}, NotFoundError),
        (500, "<html>", ServerError),
        (418, {"detail": "teapot"}, ServerError),
    ],
)
def test_any_bad_answer_is_one_of_our_errors(scripted, reply, status, body, kind):
    scripted.answers = [reply(status, body)]
    with pytest.raises(kind):
        scripted.client().people.whoami()


def test_what_a_newer_server_tells_more_is_passed_over(scripted, reply):
    outlook = {"runs": 1, "mean_s": 1.0, "p50_s": 1.0, "p90_s": 1.0, "p99_s": 2.0}
    policy = {"order": {"aging_s": 60.0, "is_kind": True}, "mood": "good"}
    under = {"policy": policy, "all": outlook, "by_share": {"a": outlook}, "carbon_kg": 3}
    scripted.answers = [reply(200, {"now": under, "then": under, "runs": 1, "seed": 7})]
    found = scripted.client().policies.rehearse("", days=1)
    assert (found.runs, found.now.policy.order.aging_s, found.then.by_share["a"].p90_s) == (1, 60.0, 1.0)


def test_an_answer_that_is_not_json_is_a_server_error(scripted):
    scripted.answers = [lambda _: httpx2.Response(200, content=b"<html>hello</html>")]
    with pytest.raises(ServerError, match="not JSON"):
        scripted.client().people.whoami()


def test_a_server_that_is_not_there_is_named_after_some_tries():
    client = Client.open("http://127.0.0.1:9", "x")
    pauses: list[float] = []
    client.transport.pause = pauses.append
    with pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.1:9"):
        client.people.whoami()
    assert len(pauses) == 5
    assert pauses[-1] > pauses[0] / 2


def test_names_are_quoted_in_addresses(scripted, reply):
    scripted.answers = [reply(404, {"error": {"code": "not_found", "message": "no"}})]
    with pytest.raises(NotFoundError):
        scripted.client().runs.get("../users?x=1#y")
    assert scripted.seen[0].url.raw_path == b"/api/v1/runs/..%2Fusers%3Fx%3D1%23y"


def _sweep_spec():
    from mainspring.core.records import Dimension, SweepSpec
    from mainspring.core.specs import RunSpec

    space = (Dimension(name="lr", kind="float", low=0, high=1),)
    return SweepSpec(template=RunSpec(command=("x",)), space=space, metric="auc")


def _sweep():
    from datetime import UTC, datetime

    from mainspring.core.codec import to_plain
    from mainspring.core.records import Sweep

    at = datetime(2026, 1, 1, tzinfo=UTC)
    return to_plain(Sweep(id="sweep-1", project="default", name="s", owner="ann", spec=_sweep_spec(), created_at=at))
