"""Finding the server: which one is meant, which one lives, and one start for many clients."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from mainspring.client import connection
from mainspring.core.errors import AuthError, ServerUnreachableError, UsageError


def _told(**more):
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split() if sys.platform == "linux" else []
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip() if stat else ""
    return {"url": "http://127.0.0.1:1", "pid": os.getpid(), "start_time": int(stat[19]) if stat else 0, "boot_id": boot, **more}


@pytest.mark.parametrize(
    ("told", "lives"),
    [
        ({}, True),
        ({"pid": 2**22 - 1}, False),
        ({"start_time": 1}, False),
        ({"boot_id": "another"}, False),
        ({"pid": "1"}, False),
        ({"url": None}, False),
    ],
)
def test_a_server_file_counts_only_while_its_very_process_lives(home, told, lives):
    home.mkdir()
    (home / "server.json").write_text(json.dumps(_told(**told)))
    assert (connection.find(home) is not None) is lives


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_damaged_server_file_is_no_server(home, text):
    home.mkdir()
    (home / "server.json").write_text(text)
    assert connection.find(home) is None


def test_the_environment_names_a_server_elsewhere(home, monkeypatch):
    monkeypatch.setenv("MAINSPRING_URL", "https://fleet.example")
    with pytest.raises(AuthError, match="MAINSPRING_TOKEN"):
        connection.connect()
    monkeypatch.setenv("MAINSPRING_TOKEN", "ms_x")
    assert connection.connect().url == "https://fleet.example"
    assert connection.connect() is connection.connect()


def test_a_kept_login_is_private_and_used(home):
    path = connection.save_login(home, "https://fleet.example", "ms_y")
    assert path.stat().st_mode & 0o077 == 0
    client = connection.connect()
    assert (client.url, client.transport.token) == ("https://fleet.example", "ms_y")


def test_without_a_server_and_no_leave_to_start_one_it_says_so(home):
    with pytest.raises(ServerUnreachableError) as caught:
        connection.connect(may_start=False)
    assert caught.value.hint == "mainspring up"
    assert not home.exists()


@pytest.mark.parametrize("text", ["", "{", "null", '"--gpus"', "[1]"])
def test_damaged_flags_of_the_last_server_are_none(home, text):
    home.mkdir()
    (home / "up.json").write_text(text)
    assert connection.kept_flags(home) == ()


def test_code_inside_a_run_starts_no_server(home, monkeypatch):
    monkeypatch.setenv("MAINSPRING_ATTEMPT", "att-1")
    with pytest.raises(UsageError, match="inside a run"):
        connection.connect()


def test_a_token_that_others_can_read_is_warned_about(home):
    home.mkdir()
    (home / "token").write_text("ms_z\n")
    (home / "token").chmod(0o644)
    with pytest.warns(UserWarning, match="chmod 600"):
        assert connection.read_token(home) == "ms_z"
    (home / "token").unlink()
    with pytest.raises(AuthError):
        connection.read_token(home)


def test_a_server_that_cannot_start_is_explained_with_its_last_words(home):
    with pytest.raises(ServerUnreachableError, match="Unknown option"):
        connection.start(home, "--no-such-flag")


@pytest.mark.e2e
def test_clients_that_begin_at_once_make_one_server(home):
    found: list[str] = []

    def begin():
        found.append(str(connection.start(home)["pid"]))

    threads = [threading.Thread(target=begin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert connection.connect().people.whoami()["is_admin"]
    assert (home / "token").stat().st_mode & 0o077 == 0
