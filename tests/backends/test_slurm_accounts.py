"""The Slurm backend where Slurm keeps account: accounts, qualities of service, their limits, and what sacct tells."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines.accounts import ACCOUNTS, QOS
from engines.waiting import until

from mainspring.backends.slurm.backend import SlurmBackend, create
from mainspring.core.backend import Handle, LaunchRequest, ObservedState
from mainspring.core.errors import CredentialsError, LaunchError
from mainspring.core.records import Cause, Cluster
from mainspring.core.resources import Granted
from mainspring.testing.backend import SLEEP, BackendContract
from mainspring.testing.server import RunnerServer

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("slurm-accounts")]


@pytest.fixture
def backend(slurm_with_accounts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmBackend:
    for name, value in slurm_with_accounts.env.items():
        monkeypatch.setenv(name, value)
    shared = Path(slurm_with_accounts.folder) / "shared" / tmp_path.name
    cluster = Cluster(id="lab", name="lab", backend="slurm", config={"folder": str(shared)})
    return create(cluster, tmp_path, f"acc{os.getpid()}x{time.monotonic_ns():x}")


@pytest.fixture
def server() -> Iterator[RunnerServer]:
    made = RunnerServer()
    yield made
    made.close()


@pytest.fixture
def suite(backend: SlurmBackend) -> BackendContract:
    made = BackendContract()
    made.installation = backend.installation
    return made


def configured(backend: SlurmBackend, **options: object) -> None:
    backend.cluster = replace(backend.cluster, config={**backend.cluster.config, **options})


def job_of(backend: SlurmBackend, handle: Handle) -> str:
    return str(backend.native(handle)["job"])


def asking(request: LaunchRequest, **overrides: object) -> LaunchRequest:
    return replace(request, overrides=overrides)


def test_a_run_is_charged_to_the_account_of_its_pool_or_its_own(
    backend: SlurmBackend, server: RunnerServer, suite: BackendContract, slurm_with_accounts: Any
) -> None:
    configured(backend, account=ACCOUNTS[1], qos=QOS)
    for overrides, charged in (({}, ACCOUNTS[1]), ({"account": ACCOUNTS[0], "qos": "normal"}, ACCOUNTS[0])):
        request = asking(suite.request(backend, server, SLEEP, "charged"), **overrides)
        with suite.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            told = slurm_with_accounts.run("squeue", f"--jobs={job_of(backend, handle)}", "--noheader", "--format=%a %q").split()
            assert told == [charged, overrides.get("qos", QOS)]


@pytest.mark.parametrize(
    ("option", "value", "sentence"), [("account", "chemistry", "account"), ("qos", "golden", "[Qq][Oo][Ss]")]
)
def test_what_slurm_does_not_know_is_no_launch_and_told_by_a_check(
    backend: SlurmBackend, server: RunnerServer, suite: BackendContract, option: str, value: str, sentence: str
) -> None:
    with pytest.raises(LaunchError, match=sentence):
        backend.launch(asking(suite.request(backend, server, SLEEP, "unknown"), **{option: value}))
    configured(backend, **{option: value})
    findings = backend.probe()
    (notice,) = [one for one in findings.notices if "would not take a job of ours" in one.text]
    assert (findings.is_ready, f"--{option}" in notice.command) == (False, True), notice


def test_a_limit_of_the_quality_of_service_lets_the_second_wait_and_says_so(
    backend: SlurmBackend, server: RunnerServer, suite: BackendContract
) -> None:
    configured(backend, qos=QOS)
    first, second = (suite.request(backend, server, SLEEP, name) for name in ("first", "second"))
    with suite.launched(backend, first) as one, suite.launched(backend, second) as two:
        server.wait(first.attempt, "running")
        until(lambda: "QOSMax" in backend.observe([two])[0].detail)
        assert "the quality of service allows no more: --qos, or wait" in backend.observe([two])[0].detail
        backend.stop(one, 1.0)
        server.wait(second.attempt, "running")


def test_how_a_job_ended_that_has_left_the_queue_is_read_by_sacct(
    backend: SlurmBackend,
    server: RunnerServer,
    suite: BackendContract,
    forgotten: Callable[[Handle], None],
    slurm_with_accounts: Any,
) -> None:
    command = ["python3", "-c", "x = b'x' * (400 << 20)"]
    request = suite.request(backend, server, command, "gone", Granted(cpu_milli=1000, memory_bytes=64 << 20))
    handle = backend.launch(request)
    server.wait(request.attempt, "ended")
    suite.wait_for(backend, handle, ObservedState.GONE)
    job = job_of(backend, handle)
    words = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"]
    until(lambda: slurm_with_accounts.run(*words).strip() == "OUT_OF_MEMORY")
    forgotten(handle)
    record = backend.read_exit(handle)
    assert record is not None
    assert record.outcome.cause is Cause.OUT_OF_MEMORY
    backend.forget(handle)


def test_an_account_that_slurm_takes_back_is_the_clusters_trouble_and_no_runs(
    backend: SlurmBackend, server: RunnerServer, suite: BackendContract
) -> None:
    """What the pool asks for is refused: every run would be; none of them is to blame, and each is tried again."""
    configured(backend, account="chemistry")
    with pytest.raises(CredentialsError, match="Invalid account"):
        backend.launch(suite.request(backend, server, SLEEP, "blameless"))
    with pytest.raises(CredentialsError, match="Invalid account"):  # it says what the pool says
        backend.launch(asking(suite.request(backend, server, SLEEP, "same"), account="chemistry"))
