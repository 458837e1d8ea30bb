"""Hosts as people set them up: other shells, profiles that talk, home folders with blanks, a tunnel that is not let through."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.test_ssh import made, on_host, probed, running, until

from mainspring.testing.server import RunnerServer

NUMBER = 60020
GREETING = "printf 'Welcome! '"  # on the line that the first answer comes on
PROFILES = (".bashrc", ".profile", ".zshenv", ".cshrc", ".config/fish/config.fish")


@pytest.fixture
def odd_user(ssh_hosts: Any, need: Callable[[bool, str, str], None]) -> Iterator[Callable[[str], tuple[str, Path]]]:
    """Make a user of bm3 with a certain shell, whose profiles talk and whose home folder's name is full of signs."""
    passwd = Path(ssh_hosts.folder) / "bm3" / "passwd"
    before = passwd.read_text()
    home = Path(ssh_hosts.folder) / "bm3" / "the user's  $HOME"

    def make(shell: str) -> tuple[str, Path]:
        program = shutil.which(shell)
        need(program is not None, shell, "scripts/engines/install")
        home.mkdir(mode=0o700)
        for name in PROFILES:
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(f"{GREETING}\n")
        for path in (home, *home.rglob("*")):
            os.chown(path, NUMBER, NUMBER)
        passwd.write_text(f"{before}odd:*:{NUMBER}:{NUMBER}::{home}:{program}\n")  # in its place: it is mounted there
        return "odd", home

    yield make
    passwd.write_text(before)
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("shell", ["bash", "csh", "dash", "fish", "zsh"])
def test_any_shell_and_whatever_its_profile_says_will_do(
    shell: str, ssh_hosts: Any, odd_user: Callable[[str], tuple[str, Path]], tmp_path: Path
) -> None:
    user, home = odd_user(shell)
    found = made(ssh_hosts, tmp_path / "cluster", "bm3", user=user)
    try:
        probe = probed(found)
        assert probe.is_ready, probe
        server = RunnerServer()
        with running(found, "bm3", server) as (handle, dialled):
            dialled.wait_said(handle.attempt, b"more\nmore\n")
            native = found.native(handle)
            assert str(native["folder"]).startswith(f"{home}/.mainspring/")
            assert on_host(ssh_hosts, "bm3", f"stat -c %u /proc/{native['pid']}").strip() == str(NUMBER)
        server.close()
    finally:
        found.close()


@pytest.fixture
def untunnelled(ssh_hosts: Any) -> Iterator[str]:
    """bm3 with an sshd that lets nobody listen on sockets of it."""
    config = Path(ssh_hosts.folder) / "bm3" / "sshd_config"
    before = config.read_text()
    config.write_text(f"AllowStreamLocalForwarding no\n{before}")  # before the `Match` at its end
    ssh_hosts.stop("bm3")
    ssh_hosts.start("bm3")
    yield "bm3"
    config.write_text(before)
    ssh_hosts.stop("bm3")
    ssh_hosts.start("bm3")


def test_a_host_that_lets_no_run_come_through_is_refused_when_it_is_added(
    ssh_hosts: Any, untunnelled: str, tmp_path: Path
) -> None:
    """It had been accepted, and every run would have failed there."""
    found = made(ssh_hosts, tmp_path / "cluster", untunnelled)
    probe = probed(found)
    found.close()
    assert not probe.is_ready
    (notice,) = probe.notices
    assert notice.text.startswith(f"{ssh_hosts.addresses[untunnelled]} refuses the tunnel by which its runs reach this server: ")
    assert notice.command.startswith("Set AllowStreamLocalForwarding and AllowTcpForwarding to yes in its /etc/ssh/sshd_config")
    direct = made(ssh_hosts, tmp_path / "direct", untunnelled, direct=True)
    assert probed(direct).is_ready, "runs that dial the server itself need no tunnel"
    direct.close()


def test_the_way_to_the_server_is_tried_once_and_nothing_is_left_of_that(ssh_hosts: Any, tmp_path: Path) -> None:
    found = made(ssh_hosts, tmp_path / "cluster", "bm1")
    try:
        assert probed(found).is_ready
        (target,) = found.hosts.targets()
        link = found.hosts.channel(target)._link
        assert link is not None
        asked = link.number
        assert found.probe().is_ready
        assert link.number == asked + 1, "only what the host has is asked again"

        until(lambda: "tunnel-" not in on_host(ssh_hosts, "bm1", f"find $HOME/.mainspring/{found.installation} -name 'tunnel-*'"))

    finally:
        found.close()
