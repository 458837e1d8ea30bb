"""Kubernetes as people meet it where something is missing: the library, a certificate, a quota, and then room for a run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from engines.kubernetes.cluster import IMAGE as POD
from tests.e2e.test_cluster_trouble import add, check_refusal

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]
LIMIT_S = 240.0


@pytest.fixture(scope="module")
def desk(of_module: Site, kubernetes: Any) -> Site:
    """A server that pods reach."""
    of_module.start("--cpus", "1", "--bind", kubernetes.address)
    return of_module


def test_without_the_library_the_command_that_installs_it_is_told(fresh: Site, kubernetes: Any, tmp_path: Path) -> None:
    """A server of an installation without the extra: `import lightkube` fails there as it does without the package."""
    for name in ("lightkube", "yaml"):
        (tmp_path / "without").mkdir(exist_ok=True)
        (tmp_path / "without" / f"{name}.py").write_text(f"raise ImportError(\"No module named '{name}'\")\n")
    fresh.is_cold = True
    fresh.env = {"PYTHONPATH": str(tmp_path / "without")}
    fresh.start("--cpus", "1")
    done = add(fresh, "kubernetes", "--kubeconfig", kubernetes.kubeconfig("team", "default"))
    says = "The library for Kubernetes is not beside the server."
    check_refusal(done, 6, says, 'pip install "mainspring[kubernetes]"')


def test_a_certificate_of_nobody_that_the_cluster_knows_is_refused(desk: Site, kubernetes: Any, tmp_path: Path) -> None:
    """As one that has expired: the API server does not take it for anybody's."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    words += ["-subj", "/CN=team", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")]
    subprocess.run(words, check=True, capture_output=True)
    file = kubeconfig(kubernetes, tmp_path, {"client-certificate": str(tmp_path / "crt"), "client-key": str(tmp_path / "key")})
    done = add(desk, "kubernetes", "--kubeconfig", file)
    mends = f"kubectl --kubeconfig {file} --context test config set-credentials user --client-certificate=FILE --client-key=FILE"
    check_refusal(done, 6, "does not accept the credentials of context 'test': they are wrong or have expired.", mends)


@pytest.mark.parametrize("missing", ["client-certificate", "client-key"])
def test_a_certificate_that_is_not_there_is_named(desk: Site, kubernetes: Any, tmp_path: Path, missing: str) -> None:
    paths = {"client-certificate": f"{kubernetes.folder}/team.crt", "client-key": f"{kubernetes.folder}/team.key"}
    file = kubeconfig(kubernetes, tmp_path, {**paths, missing: "/no/such"})
    done = add(desk, "kubernetes", "--kubeconfig", file)
    check_refusal(done, 6, f"its {missing} /no/such cannot be read", "--client-certificate=FILE --client-key=FILE")


def test_a_quota_that_does_not_tell_enough_is_refused_and_a_used_one_is_why_a_run_waits(
    desk: Site, kubernetes: Any, team: str, until: Callable[..., Any]
) -> None:
    quotas = f"/api/v1/namespaces/{team}/resourcequotas"
    kubernetes.ask("POST", quotas, {"metadata": {"name": "few"}, "spec": {"hard": {"requests.cpu": "2"}}})
    words = ("kubernetes", "--kubeconfig", kubernetes.kubeconfig("team", team), "--image", POD)
    says = f"Neither nodes nor a quota of name space {team} tell what there is: say it with --cpus and --memory."
    check_refusal(add(desk, *words), 6, says, "mainspring cluster add kubernetes --namespace=")
    hard = {"requests.memory": "2Gi", "requests.nvidia.com/gpu": "0", "pods": "0"}
    kubernetes.ask("POST", quotas, {"metadata": {"name": "more"}, "spec": {"hard": hard}})
    done = add(desk, *words)
    assert (done.code, "kubernetes is registered with 1 node" in done.out) == (0, True), done
    (node,) = desk.call("GET", "/clusters/kubernetes").json()["nodes"]
    assert (node["cpu_milli"], node["memory_bytes"]) == (2000, 2 << 30)
    run = desk.submit(["true"], resources={"cpu_milli": 250, "memory_bytes": 64 << 20, "labels": {"cluster": "kubernetes"}})
    until(lambda: "exceeded quota: more" in desk.cli("why", run).out, "the cluster's own words", timeout_s=LIMIT_S)
    assert desk.call("POST", f"/runs/{run}/cancel", json={"grace_s": 0}).is_success
    assert desk.wait(run, timeout_s=LIMIT_S)["state"] == "cancelled"


def kubeconfig(kubernetes: Any, folder: Path, user: dict[str, str]) -> str:
    """Write a kubeconfig of the team that logs in so; return its path."""
    told = yaml.safe_load(Path(kubernetes.kubeconfig("team", "default")).read_text())
    told["users"][0]["user"] = user
    (folder / "config").write_text(yaml.safe_dump(told))
    return str(folder / "config")
