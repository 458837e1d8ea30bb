"""The local backend passes the shipped contract, and keeps its own promises about this machine."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from mainspring.backends.devices import parse_devices
from mainspring.backends.grants import granted_env
from mainspring.backends.local import create
from mainspring.backends.local.backend import LocalBackend
from mainspring.backends.local.cgroups import Cgroups, find, own, remove
from mainspring.backends.local.forks import Forks
from mainspring.backends.local.processes import boot_id, is_alive, start_time
from mainspring.core.backend import ObservedState
from mainspring.core.errors import LaunchError
from mainspring.core.records import Cluster
from mainspring.core.resources import DeviceShare, Granted
from mainspring.testing.backend import SLEEP, BackendContract
from mainspring.testing.server import RunnerServer

CLUSTER = Cluster(id="local", name="local", backend="local", config={"gpus": 2, "gpu_model": "toy", "cpus": 4})


class TestLocal(BackendContract):
    """The contract, against real processes."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[LocalBackend]:
        self.installation = f"inst-{tmp_path.name}-{os.getpid()}"
        made = create(CLUSTER, tmp_path, self.installation)
        yield made
        remove(made.groups.roots)

    def test_it_is_found_again_by_a_new_server(self, backend: LocalBackend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "again")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            reborn = create(CLUSTER, backend.folder, self.installation)
            assert reborn.observe([handle])[0].state is ObservedState.RUNNING
            assert reborn.launch(request) == handle
            assert server.of(request.attempt).was_started == 1

    def test_a_foreign_installation_is_left_alone(self, backend: LocalBackend, server: RunnerServer) -> None:
        other = create(CLUSTER, backend.folder / "other", f"{self.installation}-other")
        remove(other.groups.roots)
        request = self.request(backend, server, SLEEP, "foreign")
        with self.launched(backend, request):
            server.wait(request.attempt, "running")
            assert [one for one in other.owned() if one.attempt == request.attempt] == []

    def test_user_code_sees_what_was_granted(self, backend: LocalBackend, server: RunnerServer) -> None:
        command = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $MAINSPRING_REPLICA"]
        granted = Granted(cpu_milli=2500, memory_bytes=0, devices=(DeviceShare(index=1, milli=500),))
        request = self.request(backend, server, command, "grant", granted)
        with self.launched(backend, request):
            assert server.wait(request.attempt, "ended").log == b"1 2 0\n"

    def test_too_much_memory_ends_as_out_of_memory(self, backend: LocalBackend, server: RunnerServer) -> None:
        if not backend.capabilities.limits:
            assert backend.probe().notices
            return
        command = ["python3", "-c", "x = bytearray(400 << 20); print(len(x))"]
        request = self.request(backend, server, command, "oom", Granted(cpu_milli=1000, memory_bytes=100 << 20))
        with self.launched(backend, request):
            told = server.wait(request.attempt, "ended")
            assert told.exit is not None
            assert told.exit["cause"] == "out_of_memory"

    def test_the_cpu_limit_is_what_was_granted(self, backend: LocalBackend, server: RunnerServer) -> None:
        if not backend.capabilities.limits:
            assert backend.probe().notices
            return
        request = self.request(backend, server, SLEEP, "cpu", Granted(cpu_milli=1500, memory_bytes=0))
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            groups = [Path(group) for group in cast("list[str]", backend.native(handle)["cgroups"])]
            v1 = [(one / "cpu.cfs_quota_us", one / "cpu.cfs_period_us") for one in groups if (one / "cpu.cfs_quota_us").exists()]
            told = [one.read_text().split() for one in (groups[0] / "cpu.max",) if one.exists()]
            told += [[one.read_text().strip() for one in both] for both in v1]
            assert [int(quota) / int(period) for quota, period in told] == [1.5]
            assert str(backend.native(handle)["pid"]) in (groups[-1] / "cgroup.procs").read_text().split()

    def test_the_token_is_in_no_listing(self, backend: LocalBackend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "token")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    except OSError:
                        continue
                    assert request.token.encode() not in words
            place = Path(str(handle.data["folder"]))
            assert (place / "token").stat().st_mode & 0o077 == 0
            assert place.stat().st_mode & 0o077 == 0

    def test_a_stop_does_not_kill_a_runner_that_waits_for_the_server(
        self, backend: LocalBackend, server: RunnerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mainspring.backends.local.backend.MARGIN_S", 0.0)
        go = tmp_path / "go"
        script = f"while ! test -e {go}; do sleep 0.05; done; echo last; exit 3"
        request = self.request(backend, server, ["sh", "-c", script], "away")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            server.is_away = True
            go.touch()
            place = Path(str(handle.data["folder"]))
            deadline = time.monotonic() + 20
            while not (place / "exit.json").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            runner = backend.native(handle)["pid"]
            backend.stop(handle, 0.0)
            deadline = time.monotonic() + 0.7
            while time.monotonic() < deadline:
                assert backend.observe([handle])[0].state is ObservedState.RUNNING, "its log was not told yet"
            server.is_away = False
            told = server.wait(request.attempt, "ended")
            assert told.exit is not None
            assert (told.exit["exit_code"], told.log) == (3, b"last\n")
            assert backend.native(handle)["pid"] == runner

    def test_a_later_stop_may_only_come_earlier(self, backend: LocalBackend, server: RunnerServer) -> None:
        request = self.request(backend, server, ["sh", "-c", "trap '' TERM; sleep 300; sleep 300"], "sooner")
        request = dataclasses.replace(request, grace_s=200.0)
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            backend.stop(handle, 200.0)
            backend.stop(handle, 0.0)
            backend.stop(handle, 300.0)
            self.wait_for(backend, handle, ObservedState.GONE)

    def test_what_forgets_leaves_nothing(self, backend: LocalBackend, server: RunnerServer) -> None:
        request = self.request(backend, server, ["true"], "nothing")
        handle = backend.launch(request)
        server.wait(request.attempt, "ended")
        self.wait_for(backend, handle, ObservedState.GONE)
        groups = [Path(group) for group in cast("list[str]", backend.native(handle)["cgroups"])]
        assert all(group.is_dir() for group in groups)
        backend.forget(handle)
        assert not any(group.exists() for group in groups)
        assert not Path(str(handle.data["folder"])).exists()

    def test_the_runners_zip_is_never_replaced(self, backend: LocalBackend, server: RunnerServer) -> None:
        with self.launched(backend, self.request(backend, server, SLEEP, "zip")):
            (built,) = backend.folder.glob("runner-*.zip")
            before = built.stat().st_ino
            reborn = create(CLUSTER, backend.folder, self.installation)
            with self.launched(reborn, self.request(reborn, server, ["true"], "zip2")):
                assert list(backend.folder.glob("runner-*.zip")) == [built]
            assert built.stat().st_ino == before, "a running runner reads modules from it until its end"
            assert built.stat().st_size < 165_000

    @pytest.mark.parametrize("room", [512, 0], ids=["forked", "begun anew for want of room"])
    def test_a_runner_shows_as_itself(
        self, backend: LocalBackend, server: RunnerServer, room: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mainspring.backends.local.backend.ROOM", room)
        request = self.request(backend, server, SLEEP, "itself")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            native = backend.native(handle)
            (zipped,) = backend.folder.glob("runner-*.zip")
            assert native["command"] == [sys.executable, "-S", "-E", str(zipped), handle.data["folder"]]
            environ = Path(f"/proc/{native['pid']}/environ").read_bytes().split(b"\0")
            assert f"MAINSPRING_ATTEMPT={request.attempt}".encode() in environ
            assert not [word for word in environ if word.startswith(b"MAINSPRING_FORK_SERVER")]
            pid = cast("int", native["pid"])
            assert os.getsid(pid) == pid

    def test_runners_outlive_their_fork_server(self, backend: LocalBackend, server: RunnerServer) -> None:
        first = self.request(backend, server, SLEEP, "outlives")
        with self.launched(backend, first) as handle:
            server.wait(first.attempt, "running")
            runner = backend.native(handle)["pid"]
            forks = _parent(cast("int", runner))
            os.kill(forks, signal.SIGKILL)
            second = self.request(backend, server, SLEEP, "second")
            with self.launched(backend, second) as other:
                server.wait(second.attempt, "running")
                assert _parent(cast("int", backend.native(other)["pid"])) not in (forks, os.getpid())
                assert backend.observe([handle])[0].state is ObservedState.RUNNING
                assert backend.native(handle)["pid"] == runner
        told = server.of(first.attempt)
        assert (told.was_started, told.log) == (1, b"begun\n")

    def test_what_one_runner_is_given_the_next_one_does_not_have(
        self, backend: LocalBackend, server: RunnerServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for zone, printed in (("Mars/Olympus", b"Mars/Olympus\n"), (None, b"\n")):
            monkeypatch.setenv("TZ", zone) if zone else monkeypatch.delenv("TZ")
            request = self.request(backend, server, ["sh", "-c", "echo $TZ"], f"zone{bool(zone)}")
            with self.launched(backend, request):
                assert server.wait(request.attempt, "ended").log == printed

    def test_a_folder_that_cannot_be_written_is_a_refused_launch(self, backend: LocalBackend, server: RunnerServer) -> None:
        (backend.folder / "attempts").write_text("in the way")
        with pytest.raises(LaunchError, match="cannot be started"):
            backend.launch(self.request(backend, server, ["true"], "full"))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_fork_server_that_cannot_serve_is_an_error(tmp_path: Path) -> None:
    forks = Forks([sys.executable, "-c", "pass"], tmp_path, {})
    with pytest.raises(OSError, match="fork server has ended"):
        forks.begin(tmp_path, {}, [])


def test_what_nvidia_smi_says_is_read_with_care() -> None:
    told = "0, GPU-1, NVIDIA H100, 81559\n1, GPU-2, NVIDIA GB10, [N/A]\nNo devices were found\n"
    assert [(one.index, one.model, one.memory_bytes >> 20) for one in parse_devices(told)] == [
        (0, "NVIDIA H100", 81559),
        (1, "NVIDIA GB10", 0),
    ]


@pytest.mark.parametrize(("told", "files"), [("0::/a/b\n", ["cgroup.controllers"]), ("5:cpu:/\n4:memory:/a/b\n", [])])
def test_our_own_groups_are_found_in_both_versions(tmp_path: Path, told: str, files: list[str]) -> None:
    base = tmp_path if files else tmp_path / "memory"
    (base / "a" / "b").mkdir(parents=True)
    for name in files:
        (tmp_path / name).touch()
    (tmp_path / "told").write_text(told)
    assert own("memory", tmp_path, tmp_path / "told") == [base, base / "a", base / "a" / "b"]


@pytest.mark.parametrize(
    ("granted", "limits"),
    [
        (Granted(cpu_milli=2500, memory_bytes=3 << 30), {"cpu.max": "250000 100000", "memory.max": str(3 << 30)}),
        (Granted(cpu_milli=5, memory_bytes=0), {"cpu.max": "1000 100000"}),  # no less is taken; no memory granted: no limit
    ],
)
def test_groups_of_version_2_limit_what_was_granted(tmp_path: Path, granted: Granted, limits: dict[str, str]) -> None:
    (group,) = Cgroups(2, (tmp_path,)).make("one.0", granted)
    assert group == tmp_path / "one.0"
    assert {one.name: one.read_text() for one in group.iterdir()} == limits


def test_declared_devices_are_counted(tmp_path: Path) -> None:
    (node,) = create(CLUSTER, tmp_path, "inst-x").inventory().nodes
    assert [(device.index, device.model, device.declared) for device in node.devices] == [(0, "toy", True), (1, "toy", True)]
    assert node.cpu_milli == 4000


def test_no_gpu_granted_means_none_is_visible() -> None:
    env = granted_env(Granted(cpu_milli=500, memory_bytes=0))
    assert (env["CUDA_VISIBLE_DEVICES"], env["OMP_NUM_THREADS"]) == ("", "1")


def test_a_reused_pid_and_a_zombie_are_dead() -> None:
    mine = {"pid": os.getpid(), "start_time": start_time(os.getpid()), "boot_id": boot_id()}
    assert is_alive(mine)
    assert not is_alive({**mine, "start_time": 1})
    assert not is_alive({**mine, "boot_id": "another"})
    child = os.fork()
    if child == 0:
        os._exit(0)
    deadline = time.monotonic() + 5
    while start_time(child) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive({"pid": child})
    os.waitpid(child, 0)


def test_without_groups_a_notice_says_so(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("")
    (tmp_path / "cgroup.subtree_control").write_text("")
    found = find("inst-x", tmp_path)
    assert not found.is_enforced
    assert "not enforced" in found.notice
