"""Following: nothing lost, nothing twice, over broken connections."""

from __future__ import annotations

import base64
import json

import httpx2
import pytest

from mainspring.client.runs import Runs
from mainspring.core.errors import NotFoundError, ServerUnreachableError


def _event(name, data, cursor=""):
    head = f"id: {cursor}\n" if cursor else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n"


def _log(offset, data):
    return _event("log", {"attempt": 1, "offset": offset, "data": base64.b64encode(data).decode()}, f"1:{offset + len(data)}")


class Torn(httpx2.SyncByteStream):
    """A body that breaks off after `text`."""

    def __init__(self, text):
        self.text = text

    def __iter__(self):
        yield self.text.encode()
        raise httpx2.ReadError("broken")


def _stream(text, *, torn=False):
    headers = {"content-type": "text/event-stream"}
    if torn:
        return lambda _: httpx2.Response(200, stream=Torn(text), headers=headers)
    return lambda _: httpx2.Response(200, content=text.encode(), headers=headers)


def test_a_broken_connection_is_taken_up_where_it_broke(scripted):
    scripted.answers = [
        _stream(_event("attempt", {"number": 1}) + _log(0, b"one\n") + "event: log\ndata: {half", torn=True),
        httpx2.ConnectError("down"),
        _stream(_log(4, b"two\n") + ": still here\n\n" + _event("end", {"state": "succeeded"})),
    ]
    parts = list(Runs(scripted.client().transport).follow("run"))
    assert b"".join(part.data for part in parts) == b"one\ntwo\n"
    assert parts[-1].state == "succeeded"
    assert [request.headers.get("last-event-id") for request in scripted.seen] == [None, "1:4", "1:4"]


def test_a_stream_that_ends_without_an_end_is_asked_for_again(scripted):
    scripted.answers = [_stream(_log(0, b"a")), _stream(_log(1, b"b") + _event("end", {"state": "failed"}))]
    parts = list(Runs(scripted.client().transport).follow("run"))
    assert [part.data for part in parts] == [b"a", b"b", b""]


def test_any_member_of_a_run_is_followed(scripted):
    scripted.answers = [_stream(_log(0, b"from two\n") + _event("end", {"state": "succeeded"}))]
    parts = list(Runs(scripted.client().transport).follow("run", replica=2))
    assert parts[0].data == b"from two\n"
    assert scripted.seen[0].url.params["replica"] == "2"


def test_a_run_that_is_not_there_is_an_error_at_once(scripted, reply):
    scripted.answers = [reply(404, {"error": {"code": "not_found", "message": "no such run"}})]
    with pytest.raises(NotFoundError, match="no such run"):
        list(Runs(scripted.client().transport).follow("run"))


def test_a_server_that_stays_away_is_given_up(scripted):
    scripted.answers = [httpx2.ConnectError("down") for _ in range(50)]
    with pytest.raises(ServerUnreachableError):
        list(Runs(scripted.client().transport).follow("run"))
    assert 5 < len(scripted.pauses) < 20
