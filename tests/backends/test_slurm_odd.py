"""A Slurm that is odd: folders full of signs, jobs of other kinds, profiles that talk, files that fail, no Python."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from engines.slurm import USER
from engines.waiting import until
from tests.backends import test_slurm
from tests.backends.test_slurm import TestContract as Suite
from tests.backends.test_slurm import TestGangs as Gangs
from tests.backends.test_slurm import TestLoginHost as LoginHost

from mainspring.backends.slurm import far
from mainspring.backends.slurm.backend import SlurmBackend, create
from mainspring.backends.slurm.door import Asked, Door, here
from mainspring.core.backend import Handle, ObservedState
from mainspring.core.errors import UnreachableError
from mainspring.core.records import Cause
from mainspring.testing.backend import SLEEP
from mainspring.testing.server import RunnerServer

backend, server = test_slurm.backend, test_slurm.server  # fixtures
pytestmark = pytest.mark.xdist_group("fleet")
ODD = "a  b%j's $(exit 1) \"#;&"


def suite_of(backend: SlurmBackend) -> Suite:
    suite = Suite()
    suite.installation = backend.installation
    return suite


def with_folder(backend: SlurmBackend, folder: str) -> SlurmBackend:
    backend.cluster = replace(backend.cluster, config={**backend.cluster.config, "folder": folder})
    return backend


class TestNames:
    def test_a_folder_may_be_called_anything(self, backend: SlurmBackend, server: RunnerServer) -> None:
        """One job, an array and a gang: shells, sbatch's patterns and lists of folders meet its name."""
        suite = suite_of(with_folder(backend, f"{backend.cluster.config['folder']}/{ODD}"))
        assert backend.probe().is_ready
        words = ["sh", "-c", "echo of $MAINSPRING_REPLICA"]
        alone = suite.request(backend, server, words, "alone")
        equal = [suite.request(backend, server, words, f"equal{number}") for number in range(2)]
        gang = Gangs().members(backend, server, words, "gang")
        for crowd in ([alone], equal, gang):
            handles = [cast(Handle, one) for one in backend.launch_many(crowd)]
            assert all(isinstance(one, Handle) for one in handles), handles
            for request in crowd:
                told = server.wait(request.attempt, "ended", 60, replica=request.replica)
                assert told.log == b"of %d\n" % request.replica
            until(lambda handles=handles: all(one.state is ObservedState.GONE for one in backend.observe(handles)))
            for handle in handles:
                told_exit = backend.read_exit(handle)
                assert told_exit is not None
                assert told_exit.outcome.exit_code == 0
                backend.forget(handle)
        base = Path(str(backend.cluster.config["folder"]))
        assert {path.name for path in base.iterdir()} <= {
            "attempts",
            "arrays",
            "cache",
            *(path.name for path in base.glob("*.zip")),
        }
        assert [path.name for path in base.parent.iterdir()] == [ODD], "nothing was written elsewhere"

    def test_a_folder_below_the_home_folder_is_that_of_the_login_host(self, backend: SlurmBackend, server: RunnerServer) -> None:
        """`--folder=~/runs`: bash leaves such a word as it is."""
        name = f"mainspring-runs-{os.getpid()}-{time.monotonic_ns()}"
        suite = suite_of(with_folder(backend, f"~/{name}"))
        try:
            request = suite.request(backend, server, ["sh", "-c", "echo at home"], "home")
            with suite.launched(backend, request) as handle:
                assert server.wait(request.attempt, "ended", 60).log == b"at home\n"
                assert str(handle.data["folder"]).startswith(f"{Path.home()}/{name}/")
        finally:
            shutil.rmtree(Path.home() / name, ignore_errors=True)


class TestJobs:
    def test_a_job_of_unlike_parts_in_the_queue_troubles_nobody(
        self, backend: SlurmBackend, server: RunnerServer, slurm: Any
    ) -> None:
        """The same user's own: squeue calls its parts 17+0 and 17+1."""
        theirs = slurm.run("sbatch", "--parsable", "--begin=now+1hour", "-n1", ":", "-n1", "--wrap", "true").strip()
        try:
            assert f"{theirs}+1" in slurm.run("squeue", "--me", "--noheader", "--format=%i")
            suite = suite_of(backend)
            request = suite.request(backend, server, SLEEP, "beside")
            with suite.launched(backend, request) as handle:
                server.wait(request.attempt, "running", 60)
                assert [one.attempt for one in backend.owned()] == [request.attempt]
                assert backend.observe([handle])[0].state is ObservedState.RUNNING
                assert backend.inventory().nodes
        finally:
            slurm.run("scancel", theirs)

    def test_a_state_that_nobody_has_heard_of_is_no_end(
        self, backend: SlurmBackend, server: RunnerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite = suite_of(backend)
        request = suite.request(backend, server, SLEEP, "newer")
        with suite.launched(backend, request) as handle:
            server.wait(request.attempt, "running", 60)
            wrapped(tmp_path, monkeypatch, "squeue", "{program} \"$@\" | sed 's/|RUNNING|/|TRANSCENDING|/'; echo 'warning: |||'")
            seen = backend.observe([handle])[0]
            assert (seen.state, seen.detail) == (ObservedState.RUNNING, "Slurm: TRANSCENDING")
            assert [one.attempt for one in backend.owned()] == [request.attempt]

    def test_what_sbatch_says_before_the_number_is_no_refusal(
        self, backend: SlurmBackend, server: RunnerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = (
            "echo 'sbatch: Welcome! Invalid use is punished. Limit: none'; echo 'sbatch: warning: be quick' >&2; {program} \"$@\""
        )
        wrapped(tmp_path, monkeypatch, "sbatch", said)
        suite = suite_of(backend)
        assert backend.probe().is_ready
        request = suite.request(backend, server, ["sh", "-c", "echo through"], "noisy")
        with suite.launched(backend, request) as handle:
            assert server.wait(request.attempt, "ended", 60).log == b"through\n"
            assert backend.launch(request) == handle

    def test_a_node_without_python_is_told_and_not_tried_for_ever(self, backend: SlurmBackend, server: RunnerServer) -> None:
        suite = suite_of(backend)
        backend.cluster = replace(backend.cluster, config={**backend.cluster.config, "python": "python9.9"})
        alone = suite.request(backend, server, ["true"], "none")
        for crowd in ([alone], [suite.request(backend, server, ["true"], f"none{number}") for number in range(2)]):
            handles = [cast(Handle, one) for one in backend.launch_many(crowd)]
            for handle in handles:
                suite.wait_for(backend, handle, ObservedState.GONE)
                record = backend.read_exit(handle)
                assert record is not None
                assert (record.outcome.cause, record.is_final) == (Cause.LAUNCH_FAILED, True)
                assert "There is no Python 3.9 or newer on node n" in record.outcome.message
                assert "--python PATH" in record.outcome.message
                backend.forget(handle)


class TestFiles:
    def test_a_file_that_cannot_be_read_is_no_file_that_is_not_there(self) -> None:
        """Its own memory is a file that answers with an error, as one of a file system that is down does."""
        told = far.carry_out({"read": ["/proc/self/mem", "/nonexistent/file", "/etc/passwd/below"]})
        assert told["read"] == {"/proc/self/mem": None, "/nonexistent/file": None, "/etc/passwd/below": None}
        assert list(told["unread"]) == ["/proc/self/mem"]
        with pytest.raises(UnreachableError, match="/proc/self/mem cannot be read"):
            Door(here).ask(Asked(read=["/proc/self/mem"]))

    def test_members_of_an_array_whose_list_fails_for_a_moment_are_not_gone(
        self, backend: SlurmBackend, server: RunnerServer, tmp_path: Path
    ) -> None:
        suite = suite_of(backend)
        requests = [suite.request(backend, server, SLEEP, f"listed{number}") for number in range(2)]
        handles = [cast(Handle, one) for one in backend.launch_many(requests)]
        for request in requests:
            server.wait(request.attempt, "running", 60)
        (folders,) = Path(str(backend.cluster.config["folder"])).glob("arrays/*/folders")
        again = create(backend.cluster, tmp_path, backend.installation)
        kept = folders.read_bytes()
        folders.unlink()
        folders.symlink_to("/proc/self/mem")
        try:
            with pytest.raises(UnreachableError):
                again.observe(handles)
        finally:
            folders.unlink()
            folders.write_bytes(kept)
        assert [one.state for one in again.observe(handles)] == [ObservedState.RUNNING] * 2
        for handle in handles:
            again.stop(handle, 0.0)
            suite.wait_for(again, handle, ObservedState.GONE)
            again.forget(handle)


def test_what_the_login_host_prints_by_itself_is_no_answer(slurm: Any, tmp_path: Path) -> None:
    """Its user's own greeting comes before, on the same line: sshd runs ~/.ssh/rc whatever is asked."""
    greeting = Path(slurm.folder) / USER / ".ssh" / "rc"
    greeting.parent.mkdir()
    greeting.write_text("echo Message of the day; printf 'Welcome to the cluster! '\n")
    try:
        backend = LoginHost().made(slurm, tmp_path, targets=[f"{USER}@127.0.0.1"])
        greeted = backend.door.carry("print(1)", "")
        assert greeted == "Message of the day\nWelcome to the cluster! 1\n", "the greeting is heard"
        assert len(backend.inventory().nodes) == 2
    finally:
        shutil.rmtree(greeting.parent)  # all that is there is its user's, says another test


def wrapped(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, script: str) -> None:
    """Put a script before one of Slurm's commands."""
    place: Callable[[str], Path] = folder.joinpath
    place("odd").mkdir()
    path = place("odd") / program
    path.write_text(f"#!/bin/sh\n{script.replace('{program}', str(shutil.which(program)))}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
