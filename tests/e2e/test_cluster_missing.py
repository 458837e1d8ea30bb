"""More that `cluster add` and `cluster check` find missing, as it is typed: on hosts over SSH, on Slurm, beside the server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Done, Site

pytestmark = [pytest.mark.e2e, pytest.mark.engine]
FLEET = pytest.mark.xdist_group("fleet")  # where Slurm's other tests are: one cluster
ADD = ("cluster", "add")


def refused(done: Done, says: str, mends: str, code: int = 6) -> None:
    """Check that a command was refused with what is wrong, and what to type instead."""
    assert (done.code, says in done.err, mends in done.err) == (code, True, True), done


def nothing_is_left(site: Site) -> None:
    assert [one["cluster"]["name"] for one in site.call("GET", "/clusters").json()] == ["local"]
    assert not [one for one in site.call("GET", "/events").json()["items"] if one["kind"] == "cluster.added"]


@pytest.mark.parametrize(
    ("kind", "library", "says"),
    [
        ("docker", "docker", "Docker's library is not installed beside the server."),
        ("podman", "docker", "Docker's library is not installed beside the server."),
    ],
)
def test_without_its_library_an_engine_is_refused_with_the_command_that_installs_it(
    fresh: Site, docker_engine: Any, tmp_path: Path, kind: str, library: str, says: str
) -> None:
    (tmp_path / f"{library}.py").write_text("raise ImportError('there is none')\n")
    fresh.is_cold = True
    fresh.env = {**fresh.env, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    fresh.start("--cpus", "1")
    refused(fresh.cli(*ADD, kind, "--host", docker_engine.url), says, 'pip install "mainspring[docker]"')
    nothing_is_left(fresh)


@pytest.fixture
def host(ssh_hosts: Any) -> Iterator[Any]:
    """The hosts; bm3 has its sshd as it was afterwards."""
    config = Path(ssh_hosts.folder) / "bm3" / "sshd_config"
    before = config.read_text()
    yield ssh_hosts
    if config.read_text() != before:
        config.write_text(before)
        ssh_hosts.stop("bm3")
        ssh_hosts.start("bm3")


def words(hosts: Any, *more: str) -> tuple[str, ...]:
    known = ("--user", "root", "--key", hosts.key, "--host-key", hosts.fingerprint("bm3"), "--name", "lab")
    return (*ADD, "ssh", hosts.addresses["bm3"], *known, *more)


def test_a_host_that_misses_one_thing_is_refused_with_what_mends_it(fresh: Site, host: Any) -> None:
    fresh.start("--cpus", "1")
    address = host.addresses["bm3"]
    logs_in = f"ssh -i {host.key} root@{address}"
    python = fresh.cli(*words(host, "--python", "python9.9"))
    refused(
        python, f"There is no Python 3.9 or newer on {address} named python9.9.", f"{logs_in} 'sudo apt-get install -y python3'"
    )
    folder = fresh.cli(*words(host, "--folder", "/proc/none"))
    says = f"{address} does not take the runner's file at /proc/none/"
    refused(folder, says, "Name another folder there: --folder /var/tmp/mainspring")
    wrong = fresh.cli(*words(host, "--key", f"{host.folder}/bm3/host_key"))
    refused(wrong, f"{address} refuses the key for root: ", f"ssh-copy-id -i {host.folder}/bm3/host_key root@{address}")
    config = Path(host.folder) / "bm3" / "sshd_config"
    config.write_text(f"AllowStreamLocalForwarding no\n{config.read_text()}")
    host.stop("bm3")
    host.start("bm3")
    tunnel = fresh.cli(*words(host))
    refused(tunnel, f"{address} refuses the tunnel by which its runs reach this server", "Set AllowStreamLocalForwarding")
    nothing_is_left(fresh)


def test_a_host_whose_disk_is_full_is_told_and_takes_nothing(fresh: Site, host: Any) -> None:
    """It is a cluster all the same: room is made, or another limit is named."""
    fresh.start("--cpus", "1")
    full = fresh.cli(*words(host, "--min-free-gib", "1000000"))
    assert (full.code, "takes no runs: only" in full.err) == (0, True), full
    run = fresh.submit(["true"], resources={"labels": {"cluster": "lab"}})
    assert "free on its disk" in fresh.cli("why", run).out
    assert fresh.attempts(run) == []


def test_a_host_that_shows_another_key_is_told_with_the_command_that_forgets_the_old_one(fresh: Site, host: Any) -> None:
    fresh.start("--cpus", "1")
    assert fresh.cli(*words(host, "--min-free-gib", "0.01")).code == 0
    assert fresh.stop() == 0  # who is connected stays so
    host.change_key("bm3")
    host.stop("bm3")
    host.start("bm3")
    fresh.start("--cpus", "1")
    address = host.addresses["bm3"]
    done = fresh.cli("cluster", "check", "lab")
    refused(done, f"{address} shows another host key than before", f"ssh-keygen -R {address} -f {fresh.home}/clusters/lab/hosts/")


@FLEET
def test_a_slurm_that_misses_one_thing_is_refused_with_what_mends_it(fresh: Site, slurm: Any, tmp_path: Path) -> None:
    conf = (Path(slurm.folder) / "slurm.conf").read_text()
    (tmp_path / "slurm.conf").write_text(conf.replace("/munge/socket", "/munge/none") + "\nMessageTimeout=2\n")
    fresh.start("--cpus", "1", **{**slurm.env, "SLURM_CONF": str(tmp_path / "slurm.conf")})
    guard = fresh.cli(*ADD, "slurm", "local")
    refused(guard, "Slurm does not believe who asks", "sudo systemctl restart munge")
    nothing_is_left(fresh)


@FLEET
def test_a_slurm_without_limits_or_python_is_told_before_anything_is_lost(fresh: Site, slurm: Any, tmp_path: Path) -> None:
    """Its configuration says that no plug-in keeps tasks; its nodes have no Python of that name."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script = f"#!/bin/sh\n{shutil.which('scontrol')} \"$@\" | sed 's,^TaskPlugin .*,TaskPlugin = task/none,'\n"
    (programs / "scontrol").write_text(script)
    (programs / "scontrol").chmod(0o755)
    fresh.start("--cpus", "1", **{**slurm.env, "PATH": f"{programs}:{os.environ['PATH']}", "MAINSPRING_QUIET_BEAT_S": "1"})
    folder = Path(slurm.folder) / "shared" / tmp_path.name
    added = fresh.cli(*ADD, "slurm", "local", "--name", "hpc", "--folder", str(folder), "--python", "python9.9")
    assert added.code == 0, added
    assert "This Slurm does not keep runs within their memory" in added.err, added
    assert "mend it: TaskPlugin=task/cgroup in slurm.conf, ConstrainRAMSpace=yes in cgroup.conf" in added.err, added
    checked = fresh.cli("cluster", "check", "hpc", timeout_s=120)
    assert (checked.code, checked.out.count("There is no Python 3.9 or newer on node n")) == (1, 2), checked
    assert "--python PATH, --prolog 'module load python'" in checked.out, checked
