"""The Slurm backend passes the shipped contract against a real Slurm."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from engines.sharing import free_ports
from engines.waiting import until

from mainspring.backends.slurm.backend import SlurmBackend, create
from mainspring.backends.slurm.door import Asked
from mainspring.core.backend import Backend, Handle, LaunchRequest, ObservedState
from mainspring.core.errors import LaunchError, UnreachableError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Cause, Cluster
from mainspring.core.resources import DeviceShare, Granted
from mainspring.testing.backend import SLEEP, BackendContract
from mainspring.testing.server import RunnerServer

pytestmark = pytest.mark.xdist_group("fleet")  # one cluster: what one test holds there, another would see


@pytest.fixture
def backend(slurm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmBackend:
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    shared = Path(slurm.folder) / "shared" / tmp_path.name
    cluster = Cluster(id="lab", name="lab", backend="slurm", config={"folder": str(shared)})
    return create(cluster, tmp_path, f"conf{os.getpid()}x{time.monotonic_ns():x}")


@pytest.fixture
def sbatch_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return what counts the calls of sbatch: their words, one line each."""
    folder, log = tmp_path / "counted", tmp_path / "calls"
    folder.mkdir()
    (folder / "sbatch").write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {shutil.which("sbatch")} "$@"\n')
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return lambda: log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def server() -> Iterator[RunnerServer]:
    made = RunnerServer()
    yield made
    made.close()


class TestContract(BackendContract):
    @pytest.fixture(autouse=True)
    def _same_installation(self, backend: SlurmBackend) -> None:
        self.installation = backend.installation

    def kill_runner(self, backend: Backend, handle: Handle) -> None:
        assert isinstance(backend, SlurmBackend)
        job = str(backend.native(handle)["job"])
        backend.door.ask(Asked(run=[["scancel", "--batch", "--signal=KILL", job]]))

    def test_it_gets_the_devices_that_slurm_chose_and_no_others(self, backend: SlurmBackend, server: RunnerServer) -> None:
        two = Granted(
            cpu_milli=1000, memory_bytes=0, devices=(DeviceShare(index=0, milli=1000), DeviceShare(index=1, milli=1000))
        )
        for granted, seen in ((two, 2), (None, 0)):
            command = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES; echo $OMP_NUM_THREADS"]
            request = self.request(backend, server, command, "devices", granted)
            with self.launched(backend, request):
                words = server.wait(request.attempt, "ended").log.decode().splitlines()
                assert (len([one for one in words[0].split(",") if one]), words[1]) == (seen, "1")

    def test_work_of_others_is_taken_off_and_ours_is_not(self, backend: SlurmBackend, server: RunnerServer, slurm: Any) -> None:
        one = DeviceShare(index=3, milli=1000)
        granted = Granted(cpu_milli=1000, memory_bytes=1 << 28, devices=(one,))
        until(lambda: slurm.run("squeue", "--noheader", "--nodelist=n2", "--states=RUNNING,COMPLETING") == "")
        other = next(node for node in backend.inventory().nodes if node.name == "n2")
        request = replace(self.request(backend, server, SLEEP, "beside", granted), node=other)
        with self.launched(backend, request):
            server.wait(request.attempt, "running")
            place = f"--nodelist={request.node.name}"
            words = ["sbatch", "--parsable", place, "--gres=gpu:2", "--cpus-per-task=2", "--mem=1G", "--output=/dev/null"]
            job = slurm.run(*words, "--wrap=sleep 300").strip()
            try:
                until(lambda: "RUNNING" in slurm.run("squeue", f"--jobs={job}", "--noheader", "--format=%T"))
                node = next(each for each in backend.inventory().nodes if each.id == request.node.id)
                assert [device.index for device in node.devices] == [0, 3]
                assert request.node.cpu_milli - node.cpu_milli == 2000
                assert request.node.memory_bytes - node.memory_bytes == 1 << 30
            finally:
                slurm.run("scancel", job)

    def test_what_slurm_refuses_is_no_launch(self, backend: SlurmBackend, server: RunnerServer) -> None:
        for overrides, sentence in (({"partition": "nowhere"}, "does not take"), ({"partitoin": "main"}, "'partition'")):
            request = replace(self.request(backend, server, SLEEP, "refused"), overrides=overrides)
            with pytest.raises(LaunchError, match=sentence):
                backend.launch(request)

    def test_a_job_that_waits_says_why(self, backend: SlurmBackend, server: RunnerServer, slurm: Any) -> None:
        request = replace(self.request(backend, server, SLEEP, "waits"), overrides={"sbatch": ["--begin=now+1hour"]})
        with self.launched(backend, request) as handle:
            seen = backend.observe([handle])[0]
            assert (seen.state, "PENDING" in seen.detail, "BeginTime" in seen.detail) == (ObservedState.RUNNING, True, True)

    def test_a_prolog_line_and_a_named_python_are_used(self, backend: SlurmBackend, server: RunnerServer) -> None:
        asked = {"prolog": ["export FROM_PROLOG='a b'"], "python": sys.executable}
        request = replace(self.request(backend, server, ["sh", "-c", "echo $FROM_PROLOG"], "prolog"), overrides=asked)
        with self.launched(backend, request):
            assert server.wait(request.attempt, "ended").log == b"a b\n"

    def test_a_run_has_what_a_login_gives_and_nothing_of_the_servers(
        self, backend: SlurmBackend, server: RunnerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after `ssh` to the login host, without a login on the node: that takes Slurm seconds for each job."""
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / ".profile").write_text("export SCRATCH='/big disk'\n")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("DATABASE_PASSWORD", "secret")
        request = self.request(backend, server, ["sh", "-c", 'echo "$SCRATCH,$DATABASE_PASSWORD,$HOME"'], "login")
        with self.launched(backend, request):
            assert server.wait(request.attempt, "ended").log.decode() == f"/big disk,,{tmp_path / 'home'}\n"

    def test_equal_replicas_go_in_one_call(self, backend: SlurmBackend, server: RunnerServer, tmp_path: Path) -> None:
        commands = [["sh", "-c", f"echo of {n}; exit {n}"] for n in range(6)] + [SLEEP] * 2
        requests = [self.request(backend, server, command, f"many{n}") for n, command in enumerate(commands)]
        handles = [cast(Handle, answer) for answer in backend.launch_many(requests)]
        assert len({str(backend.native(handle)["job"]).partition("_")[0] for handle in handles}) == 1
        for n, request in enumerate(requests[:6]):
            told = server.wait(request.attempt, "ended", 60)
            assert told.exit is not None
            assert (told.exit["exit_code"], told.log) == (n, b"of %d\n" % n)
        for request in requests[6:]:
            server.wait(request.attempt, "running", 60)
        for handle in handles[:6]:
            self.wait_for(backend, handle, ObservedState.GONE)
        again = create(backend.cluster, tmp_path, backend.installation)  # another process, which knows of no array
        assert {one.attempt for one in again.owned()} == {request.attempt for request in requests[6:]}
        assert again.launch_many(requests[6:]) == handles[6:]
        again.stop(handles[6], 0.5)
        self.wait_for(again, handles[6], ObservedState.GONE)
        assert again.observe(handles[7:])[0].state is ObservedState.RUNNING
        again.stop(handles[7], 0.5)
        self.wait_for(again, handles[7], ObservedState.GONE)
        for handle in handles:
            again.forget(handle)


class TestItsOwnWord:
    """What Slurm does to a job by itself, or at the word of somebody else."""

    def running(
        self, backend: SlurmBackend, server: RunnerServer, name: str, **overrides: object
    ) -> tuple[LaunchRequest, Handle, str]:
        """Return a run that tells when it is asked to end, its handle, and its job.

        Slurm signals each process of a job by itself, in no order: the script waits on when only its `sleep` has heard.
        """
        suite = TestContract()
        suite.installation = backend.installation
        script = "trap 'echo told; exit 0' TERM; echo begun; while :; do sleep 300 & wait; done"
        request = replace(suite.request(backend, server, ["bash", "-c", script], name), overrides=overrides)
        handle = backend.launch(request)
        server.wait_said(request.attempt, b"begun")
        return request, handle, str(backend.native(handle)["job"])

    def ended(self, backend: SlurmBackend, server: RunnerServer, handle: Handle) -> tuple[str, bytes]:
        """Return the cause that was told, and the log; nothing is left there afterwards."""
        told = server.wait(handle.attempt, "ended")
        TestContract().wait_for(backend, handle, ObservedState.GONE)
        backend.forget(handle)
        assert told.exit is not None
        assert told.was_started == 1
        return str(told.exit["cause"]), told.log

    def test_the_end_of_a_jobs_time_is_told_as_that(self, backend: SlurmBackend, server: RunnerServer, slurm: Any) -> None:
        """Slurm sends it a minute before, by `--signal`; here our hand does."""
        _, handle, job = self.running(backend, server, "late")
        slurm.run("scancel", "--batch", "--signal=USR1", job)
        assert self.ended(backend, server, handle) == (Cause.TIMEOUT, b"begun\ntold\n")

    def test_what_slurm_takes_away_is_tried_again(self, backend: SlurmBackend, server: RunnerServer, slurm: Any) -> None:
        """As for a job that comes first: nobody here asked the run to end, and its own end is no cancellation."""
        _, handle, job = self.running(backend, server, "taken")
        slurm.run("scancel", job)
        assert self.ended(backend, server, handle) == (Cause.PREEMPTED, b"begun\ntold\n")

    def test_a_job_that_is_put_back_into_the_queue_begins_nothing_anew(
        self, backend: SlurmBackend, server: RunnerServer, slurm: Any
    ) -> None:
        """An administrator can, whatever `--no-requeue` says; the same job comes again, in the same folder."""
        _, handle, job = self.running(backend, server, "again")
        slurm.run("scontrol", "update", f"JobId={job}", "Requeue=1")
        slurm.run("scontrol", "requeue", job)
        server.wait(handle.attempt, "ended")
        until(lambda: "PENDING" in backend.observe([handle])[0].detail)
        assert [one.attempt for one in backend.owned()] == [handle.attempt], "so that what it holds is counted, and it is ended"
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm lets it wait for two minutes
        assert self.ended(backend, server, handle) == (Cause.PREEMPTED, b"begun\ntold\n")

    def test_how_a_job_ended_that_has_left_the_queue_is_asked_of_accounting(
        self, backend: SlurmBackend, server: RunnerServer, forgotten: Callable[[Handle], None]
    ) -> None:
        suite = TestContract()
        suite.installation = backend.installation
        command = ["python3", "-c", "x = b'x' * (400 << 20)"]
        request = suite.request(backend, server, command, "gone", Granted(cpu_milli=1000, memory_bytes=64 << 20))
        handle = backend.launch(request)
        server.wait(request.attempt, "ended")
        suite.wait_for(backend, handle, ObservedState.GONE)
        forgotten(handle)
        record = backend.read_exit(handle)
        assert record is not None
        assert record.outcome.cause is Cause.OUT_OF_MEMORY
        backend.forget(handle)

    def test_a_node_that_dies_takes_its_run_and_nothing_begins_anew(
        self, backend: SlurmBackend, server: RunnerServer, slurm: Any
    ) -> None:
        """As long as Slurm does not reach it nobody knows; once it is back, what died there is told, and the rest is sent."""
        suite = TestContract()
        suite.installation = backend.installation
        node = next(one for one in backend.inventory().nodes if one.name == "n2")
        request = replace(suite.request(backend, server, SLEEP, "dies"), node=node)
        handle = backend.launch(request)
        server.wait_said(request.attempt, b"begun")
        slurm.stop_node("n2")
        try:
            until(lambda: backend.observe([handle])[0].state is ObservedState.UNKNOWN)
        finally:
            slurm.start_node("n2")
        suite.wait_for(backend, handle, ObservedState.GONE)
        assert backend.launch(request) == handle
        cause, log = self.ended(backend, server, handle)
        assert (cause, log.splitlines()[0]) == (Cause.NODE_LOST, b"begun")

    def test_a_run_that_asks_for_another_place_is_where_slurm_has_it(
        self, backend: SlurmBackend, server: RunnerServer, slurm: Any
    ) -> None:
        request, handle, job = self.running(backend, server, "elsewhere", constraint="fast", account="physics")
        assert request.node.name == "n1"
        told = slurm.run("squeue", f"--jobs={job}", "--noheader", "--format=%N %a %f").split()
        assert told == ["n2", "physics", "fast"]
        backend.stop(handle, 5.0)
        assert self.ended(backend, server, handle)[1] == b"begun\ntold\n"

    def test_only_nodes_that_serve_the_constraint_are_counted(self, backend: SlurmBackend, slurm: Any) -> None:
        for constraint, there in (("fast", ["n2"]), ("lab&slow", ["n1"]), ("fast|slow", ["n1", "n2"]), ("none", [])):
            backend.cluster = replace(backend.cluster, config={**backend.cluster.config, "constraint": constraint})
            assert [node.name for node in backend.inventory().nodes] == there

    def test_a_feature_that_a_node_is_given_is_seen(self, backend: SlurmBackend, slurm: Any) -> None:
        def labels() -> set[str]:
            return set(next(node.labels for node in backend.inventory().nodes if node.name == "n2"))

        assert "slurm.feature.new" not in labels()
        words = ["scontrol", "update", "NodeName=n2"]
        slurm.run(*words, "AvailableFeatures=lab,fast,new", "ActiveFeatures=lab,fast,new")
        try:
            assert "slurm.feature.new" in labels()
        finally:
            slurm.run(*words, "AvailableFeatures=lab,fast", "ActiveFeatures=lab,fast")


class TestGangs:
    """A gang is one job of Slurm's with a step for each member."""

    def members(
        self, backend: SlurmBackend, server: RunnerServer, command: list[str], name: str, granted: Granted | None = None
    ) -> list[LaunchRequest]:
        """Return four members, two on each node."""
        suite = TestContract()
        suite.installation = backend.installation
        first = suite.request(backend, server, command, name, granted or Granted(cpu_milli=1000, memory_bytes=64 << 20))
        server.worlds[first.attempt] = 4
        nodes = backend.inventory().nodes
        return [replace(first, replica=number, world_size=4, node=nodes[number // 2]) for number in range(4)]

    def test_all_members_begin_in_one_call_and_find_each_other(
        self, backend: SlurmBackend, server: RunnerServer, sbatch_calls: Callable[[], list[str]], slurm: Any
    ) -> None:
        share = tuple(DeviceShare(index=index, milli=1000) for index in (0, 1))
        seen = "echo $RANK of $WORLD_SIZE on $SLURMD_NODENAME has $CUDA_VISIBLE_DEVICES; sleep 1; exit $RANK"
        granted = Granted(cpu_milli=1000, memory_bytes=64 << 20, devices=share)
        members = self.members(backend, server, ["sh", "-c", seen], "gang", granted)
        handles = [cast(Handle, one) for one in backend.launch_many(members)]
        assert len(sbatch_calls()) == 1
        jobs = {str(backend.native(handle)["job"]) for handle in handles}
        assert len(jobs) == 1
        lines = []
        for number, member in enumerate(members):
            told = server.wait(member.attempt, "ended", 60, replica=number)
            assert told.exit is not None
            assert told.exit["exit_code"] == number
            lines.append(told.log.decode().strip())
        assert [line.rpartition(" has ")[0] for line in lines] == [f"{n} of 4 on n{1 + n // 2}" for n in range(4)]
        devices = [line.rpartition(" ")[2].split(",") for line in lines]
        assert sorted(devices[0] + devices[1]) == sorted(devices[2] + devices[3]) == ["0", "1", "2", "3"]
        until(lambda: all(one.state is ObservedState.GONE for one in backend.observe(handles)))
        for handle in handles:
            backend.forget(handle)

    def test_a_member_ends_by_itself_is_stopped_and_is_found_again(
        self, backend: SlurmBackend, server: RunnerServer, tmp_path: Path
    ) -> None:
        script = "trap 'echo told' TERM; echo begun; [ $RANK = 0 ] || { sleep 300 & wait; sleep 0.2; }"
        members = self.members(backend, server, ["bash", "-c", script], "parts")
        handles = [cast(Handle, one) for one in backend.launch_many(members)]
        server.wait(members[0].attempt, "ended", 60)
        for number in (1, 2, 3):
            server.wait_said(members[0].attempt, b"begun", replica=number)
        again = create(backend.cluster, tmp_path, backend.installation)  # another process, which knows of no gang
        until(lambda: again.observe(handles)[0].state is ObservedState.GONE)
        assert [one.state for one in again.observe(handles[1:])] == [ObservedState.RUNNING] * 3
        assert {one.replica for one in again.owned()} == {1, 2, 3}
        assert again.launch_many(members[1:]) == handles[1:]
        again.stop(handles[1], 5.0)
        told = server.wait(members[0].attempt, "ended", 60, replica=1)
        assert told.log == b"begun\ntold\n", "user code was told to end, once"
        until(lambda: again.observe(handles)[1].state is ObservedState.GONE)
        assert [one.state for one in again.observe(handles[2:])] == [ObservedState.RUNNING] * 2
        for handle in handles[2:]:
            again.stop(handle, 0.2)
        until(lambda: all(one.state is ObservedState.GONE for one in again.observe(handles)))
        for handle in handles:
            again.forget(handle)

    def test_every_member_hears_that_the_jobs_time_is_over(self, backend: SlurmBackend, server: RunnerServer, slurm: Any) -> None:
        script = "trap 'echo told; exit 0' TERM; echo begun; sleep 300 & wait"
        members = self.members(backend, server, ["bash", "-c", script], "late")
        handles = [cast(Handle, one) for one in backend.launch_many(members)]
        for number in range(4):
            server.wait_said(members[0].attempt, b"begun", replica=number)
        slurm.run("scancel", "--batch", "--signal=USR1", str(backend.native(handles[0])["job"]))
        for number in range(4):
            told = server.wait(members[0].attempt, "ended", replica=number)
            assert told.exit is not None
            assert (told.exit["cause"], told.log) == (Cause.TIMEOUT, b"begun\ntold\n")
        until(lambda: all(one.state is ObservedState.GONE for one in backend.observe(handles)))
        for handle in handles:
            backend.forget(handle)

    def test_a_gang_that_slurm_lets_wait_has_no_member_begun(
        self, backend: SlurmBackend, server: RunnerServer, slurm: Any
    ) -> None:
        """Somebody has the second node; the plan did not know. Neither half begins."""
        job = slurm.run("sbatch", "--parsable", "--nodelist=n2", "--exclusive", "--output=/dev/null", "--wrap=sleep 300").strip()
        try:
            until(lambda: "RUNNING" in slurm.run("squeue", f"--jobs={job}", "--noheader", "--format=%T"))
            members = self.members(backend, server, SLEEP, "held")
            handles = [cast(Handle, one) for one in backend.launch_many(members)]
            until(lambda: all("not free" in one.waiting for one in backend.observe(handles)))
            assert not any(server.of(members[0].attempt, number).was_started for number in range(4))
            backend.stop(handles[0], 0.0)
            until(lambda: all(one.state is ObservedState.GONE for one in backend.observe(handles)))
        finally:
            slurm.run("scancel", job)

    def test_an_uneven_gang_goes_one_by_one(self, backend: SlurmBackend, server: RunnerServer) -> None:
        members = self.members(backend, server, ["sh", "-c", "echo $RANK"], "uneven")
        server.worlds[members[0].attempt] = 3
        three = [replace(member, world_size=3) for member in members[:3]]
        handles = [cast(Handle, one) for one in backend.launch_many(three)]
        assert len({str(backend.native(handle)["job"]) for handle in handles}) == 3
        for number in range(3):
            assert server.wait(three[0].attempt, "ended", 60, replica=number).log == b"%d\n" % number
        for handle in handles:
            TestContract().wait_for(backend, handle, ObservedState.GONE)
            backend.forget(handle)


def test_two_hundred_equal_trials_go_in_one_call(
    backend: SlurmBackend, sbatch_calls: Callable[[], list[str]], slurm: Any
) -> None:
    """Admitted at once, submitted at once; a repeat finds all of them and submits nothing."""
    node = backend.inventory().nodes[0]
    granted = Granted(cpu_milli=1000, memory_bytes=16 << 20)
    first = LaunchRequest(
        installation=backend.installation,
        attempt=AttemptId("att-0"),
        run=RunId("run"),
        replica=0,
        node=node,
        granted=granted,
        server_url="http://127.0.0.1:1",
        token="t" * 64,
        overrides={"sbatch": ["--hold"]},
    )
    requests = [replace(first, attempt=AttemptId(f"att-{number}")) for number in range(200)]
    began = time.monotonic()
    answers = backend.launch_many(requests)
    took_s = time.monotonic() - began
    try:
        assert [cast(Handle, one).attempt for one in answers] == [one.attempt for one in requests]
        (call,) = sbatch_calls()
        assert "--array=0-199" in call
        assert took_s < 20
        assert len(backend.owned()) == 200
        waits = {one.waiting for one in backend.observe([cast(Handle, one) for one in answers])}
        assert waits == {"Slurm says JobHeldUser: it is held: scontrol release JOB"}
        assert backend.launch_many(requests) == answers
        assert len(sbatch_calls()) == 1
    finally:
        slurm.run(
            "scancel", f"--jobname={slurm.run('squeue', '--me', '--noheader', '--states=PENDING', '--format=%j').split()[0]}"
        )


class TestLoginHost:
    def made(self, slurm: Any, folder: Path, **config: object) -> SlurmBackend:
        told = {"targets": ["root@127.0.0.1"], "port": slurm.port, "key": slurm.key, "host_key": [slurm.fingerprint], **config}
        told["folder"] = str(Path(slurm.folder) / "shared" / folder.name)
        return create(
            Cluster(id="far", name="far", backend="slurm", config=told), folder, f"far{os.getpid()}x{time.monotonic_ns():x}"
        )

    def test_a_run_goes_through_it(self, slurm: Any, tmp_path: Path, server: RunnerServer) -> None:
        backend, suite = self.made(slurm, tmp_path), TestContract()
        suite.installation = backend.installation
        assert backend.capabilities.needs_network
        assert (backend.probe().is_ready, len(backend.inventory().nodes)) == (True, 2)
        facts = {"commands": "on 127.0.0.1", "partitions": "main, short", "memory limits": "kept by control groups"}
        told = dict(backend.probe().facts)
        assert re.fullmatch(r"[\d.]+ [GT]iB", told.pop("free disk"))
        assert told == facts
        request = suite.request(backend, server, ["sh", "-c", "echo from afar; exit 4"], "far")
        handle = backend.launch(request)
        told = server.wait(request.attempt, "ended")
        assert told.exit is not None
        assert (told.exit["exit_code"], told.log) == (4, b"from afar\n")
        suite.wait_for(backend, handle, ObservedState.GONE)
        record = backend.read_exit(handle)
        assert record is not None
        assert record.outcome.exit_code == 4
        backend.forget(handle)
        assert backend.read_exit(handle) is None

    def test_a_refused_key_and_a_strange_host_are_named(self, slurm: Any, tmp_path: Path) -> None:
        for config, sentence in (({"key": f"{slurm.folder}/login/host_key"}, "refuses the key"), ({"host_key": []}, "host key")):
            probe = self.made(slurm, tmp_path / sentence, **config).probe()
            assert not probe.is_ready
            assert sentence in probe.notices[0].text
        with pytest.raises(UnreachableError):
            self.made(slurm, tmp_path, port=free_ports(1)[0]).inventory()


class TestFaults:
    def test_without_slurms_commands_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        made = create(Cluster(id="lab", name="lab", backend="slurm"), tmp_path, "inst")
        assert not made.probe().is_ready
        assert "sinfo, scontrol, squeue, sbatch are not installed" in made.probe().notices[0].text

    def test_a_host_where_one_may_look_and_not_submit_is_refused(
        self, backend: SlurmBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("sinfo", "scontrol", "squeue"):
            (tmp_path / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(tmp_path))
        probe = backend.probe()
        assert (probe.is_ready, probe.notices[0].text) == (
            False,
            "Slurm's commands are not on this machine: sbatch is not installed.",
        )

    def test_a_partition_that_is_not_there_is_named_with_those_that_are(self, backend: SlurmBackend) -> None:
        backend.cluster = replace(backend.cluster, config={**backend.cluster.config, "partition": "main,gpu"})
        (notice,) = backend.probe().notices
        assert notice.text == "Slurm has no partition 'gpu'; it has main, short."
        backend.cluster = replace(backend.cluster, config={**backend.cluster.config, "partition": "short"})
        assert backend.probe().is_ready
        assert [node.name for node in backend.inventory().nodes] == ["n1"]

    def test_a_folder_that_cannot_be_made_is_told(self, backend: SlurmBackend, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        backend.cluster = replace(backend.cluster, config={"folder": str(tmp_path / "file" / "runs")})
        probe = backend.probe()
        assert (probe.is_ready, probe.notices[0].command) == (False, "mainspring cluster add slurm --name lab --folder=FOLDER")
        assert f"{tmp_path / 'file' / 'runs'}" in probe.notices[0].text

    def test_options_that_slurm_would_refuse_are_told_before_a_run_is_lost(self, backend: SlurmBackend) -> None:
        plain = backend.cluster.config
        for option, command in (
            ({"reservation": "nobodys"}, "--reservation=RESERVATION"),
            ({"sbatch": ["--wrong"]}, "--sbatch=SBATCH"),
        ):
            backend.cluster = replace(backend.cluster, config={**plain, **option})
            probe = backend.probe()
            assert (probe.is_ready, command in probe.notices[0].command.split()) == (False, True)
            assert f"--folder={plain['folder']}" in probe.notices[0].command, "what was right stays"
            assert "would not take a job of ours" in probe.notices[0].text

    def test_a_folder_that_a_node_does_not_see_is_told(self, backend: SlurmBackend, slurm: Any) -> None:
        """Here it is taken away before the job begins, which leaves Slurm without a place for the output."""
        suite = TestContract()
        suite.installation = backend.installation
        server = RunnerServer()
        try:
            request = replace(suite.request(backend, server, SLEEP, "unshared"), overrides={"sbatch": ["--hold"]})
            handle = backend.launch(request)
            shutil.rmtree(str(handle.data["folder"]))
            slurm.run("scontrol", "release", str(backend.native(handle)["job"]))
            suite.wait_for(backend, handle, ObservedState.GONE)
            record = backend.read_exit(handle)
            assert record is not None
            assert (record.outcome.cause, record.is_final) == (Cause.LAUNCH_FAILED, True)
            assert "Node n1 cannot write into" in record.outcome.message
        finally:
            server.close()

    def test_a_guard_that_is_down_is_told_as_such(
        self, backend: SlurmBackend, tmp_path: Path, slurm: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Munge: without it nobody can prove who he is, and Slurm's own words name a socket."""
        told = (Path(slurm.folder) / "slurm.conf").read_text()
        (tmp_path / "slurm.conf").write_text(told.replace("/munge/socket", "/munge/none") + "\nMessageTimeout=2\n")
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        (notice,) = backend.probe().notices
        assert "Slurm does not believe who asks" in notice.text
        assert notice.command == "sudo systemctl restart munge"

    def test_a_controller_that_is_away_is_unreachable(
        self, backend: SlurmBackend, tmp_path: Path, slurm: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = (Path(slurm.folder) / "slurm.conf").read_text()
        (port,) = free_ports(1)
        elsewhere = "\n".join(f"SlurmctldPort={port}" if "SlurmctldPort" in line else line for line in told.splitlines())
        (tmp_path / "slurm.conf").write_text(elsewhere + "\nMessageTimeout=1\n")
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        assert not backend.probe().is_ready
        with pytest.raises(UnreachableError):
            backend.inventory()
        with pytest.raises(UnreachableError):
            backend.observe([Handle(attempt=AttemptId("att-x"), replica=0)])
