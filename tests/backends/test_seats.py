"""Whose user runs over SSH are: which names are taken, what is asked of the host's shell, and what does not go together."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mainspring.backends.openssh import NO_USER, Login, explain, first_line, remote_python
from mainspring.backends.ssh.hosts import Hosts
from mainspring.backends.ssh.options import wrong_as_owner
from mainspring.core.errors import LaunchError
from mainspring.core.records import Cluster

TELL = "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name, os.environ['USER'], 'HOME' in os.environ)"


def cluster(**config: object) -> Cluster:
    return Cluster(id="lab", name="lab", backend="ssh", config={"targets": ["gpu01"], "folder": "~/.mainspring", **config})


@pytest.mark.parametrize("name", ["ann'", "ann;id", "-u", "a b", "Ann", "ann\n", "", "é", "a" * 33, "../ann", "$USER"])
def test_a_name_that_is_no_unix_users_never_reaches_a_shell(name: str) -> None:
    if name:
        with pytest.raises(LaunchError, match="cannot name a user"):
            remote_python("", name)
    else:
        assert "runuser" not in remote_python("", name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user without a password")
def test_a_python_is_started_as_another_user_and_never_as_root() -> None:
    def run(user: str) -> subprocess.CompletedProcess[bytes]:
        words = ["sh", "-c", remote_python("", user)]
        return subprocess.run(words, input=first_line(TELL), capture_output=True, check=False)

    assert run("daemon").stdout == b"daemon daemon False\n"
    assert [run(name).returncode for name in ("root", "nobody-of-that-name")] == [NO_USER, NO_USER]


def test_what_lets_us_be_nobody_else_is_explained() -> None:
    login = Login(host="gpu01", folder=Path("/x"), user="ml")
    wrong = explain(login, 1, "sudo: a password is required\n", "ann")
    assert ("does not let us be ann" in wrong.message, "ml ALL=(ann) NOPASSWD: ALL" in wrong.hint) == (True, True)
    assert isinstance(explain(login, NO_USER, "", "ann"), LaunchError)


def test_options_that_do_not_go_with_it_are_told_with_the_command() -> None:
    assert wrong_as_owner(cluster()) is None
    assert wrong_as_owner(cluster(as_owner=True, direct=True)) is None
    for config in ({"as_owner": True}, {"as_owner": True, "direct": True, "folder": "/var/tmp/ms"}):
        told = wrong_as_owner(cluster(**config))
        assert told is not None
        assert told.command == "mainspring cluster add ssh gpu01 --name lab --as-owner --direct"


def test_seats_outlive_the_server_as_long_as_their_host_is_there(tmp_path: Path) -> None:
    first = Hosts(cluster(), tmp_path, "i")
    assert (first.take_seat("ann", "gpu01"), first.take_seat("bob", "gone")) == ("ann@gpu01", "bob@gone")
    first.take_seat("ann", "gpu01")
    assert Hosts(cluster(), tmp_path, "i").seats() == ["gpu01", "ann@gpu01"]
