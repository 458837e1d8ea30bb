"""MicroK8s and Minikube as their pages say: programs that play theirs give a kubeconfig in the form that theirs has."""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]
# `microk8s config`: everything is in it, and its one context has no name space.
MICROK8S = """apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {authority_data}
    server: {url}
  name: microk8s-cluster
contexts:
- context:
    cluster: microk8s-cluster
    user: admin
  name: microk8s
current-context: microk8s
kind: Config
preferences: {{}}
users:
- name: admin
  user:
    client-certificate-data: {certificate_data}
    client-key-data: {key_data}
"""
# What Minikube writes into ~/.kube/config: paths below ~/.minikube, and a note of its own with each entry.
MINIKUBE = """apiVersion: v1
clusters:
- cluster:
    certificate-authority: {home}/.minikube/ca.crt
    extensions:
    - extension:
        last-update: Mon, 30 Nov 2026 20:00:00 UTC
        provider: minikube.sigs.k8s.io
        version: v1.37.0
      name: cluster_info
    server: {url}
  name: minikube
contexts:
- context:
    cluster: minikube
    extensions:
    - extension:
        last-update: Mon, 30 Nov 2026 20:00:00 UTC
        provider: minikube.sigs.k8s.io
        version: v1.37.0
      name: context_info
    namespace: default
    user: minikube
  name: minikube
current-context: minikube
kind: Config
users:
- name: minikube
  user:
    client-certificate: {home}/.minikube/profiles/minikube/client.crt
    client-key: {home}/.minikube/profiles/minikube/client.key
"""
UPDATED = '* "minikube" context has been updated to point to {host}\n* Current context is "minikube"\n'


@pytest.fixture
def person(kubernetes: Any, tmp_path: Path) -> Path:
    """The home of somebody with both distributions' programs in `bin`, who is the user `team` of the cluster."""
    home = tmp_path / "person"
    known = {"client.crt": Path(kubernetes.folder, "team.crt"), "client.key": Path(kubernetes.folder, "team.key")}
    (home / ".minikube/profiles/minikube").mkdir(parents=True)
    (home / ".kube").mkdir()
    (home / "bin").mkdir()
    (home / ".minikube/ca.crt").write_bytes(Path(kubernetes.authority).read_bytes())
    for name, path in known.items():
        (home / ".minikube/profiles/minikube" / name).write_bytes(path.read_bytes())

    def packed(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    (home / "microk8s.yaml").write_text(
        MICROK8S.format(
            url=kubernetes.url,
            authority_data=packed(Path(kubernetes.authority)),
            certificate_data=packed(known["client.crt"]),
            key_data=packed(known["client.key"]),
        )
    )
    (home / "minikube.yaml").write_text(MINIKUBE.format(url=kubernetes.url, home=home))
    (home / "updated").write_text(UPDATED.format(host=kubernetes.url.removeprefix("https://")))
    plays = {
        "microk8s": f'[ "$*" = config ] && cat {home}/microk8s.yaml',
        "minikube": f'[ "$*" = update-context ] && cp {home}/minikube.yaml {home}/.kube/config && cat {home}/updated',
    }
    for name, does in plays.items():
        (home / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (home / "bin" / name).chmod(0o755)
    return home


@pytest.mark.parametrize(
    ("name", "typed", "words"),
    [
        ("MicroK8s", "microk8s config > ~/.kube/config", ()),
        ("Minikube", "minikube update-context", ("--context", "minikube")),
    ],
)
def test_what_a_distribution_gives_is_taken(
    name: str, typed: str, words: tuple[str, ...], fresh: Site, kubernetes: Any, team: str, person: Path
) -> None:
    env = {**os.environ, "HOME": str(person), "PATH": f"{person / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", typed], env=env, check=True, capture_output=True)
    fresh.env = {**fresh.env, "HOME": str(person), "KUBECONFIG": str(person / ".kube/config")}
    fresh.start("--cpus", "1", "--bind", kubernetes.address)
    done = fresh.cli("cluster", "add", "kubernetes", *words, "--namespace", team)
    assert done.code == 6, "nobody told what there is for this team"
    assert "tell what there is" in done.err, done
    shown = [line.partition("mend it: ")[2] for line in done.err.splitlines() if "mend it: mainspring " in line]
    added = fresh.cli(*shlex.split(shown[-1])[1:])
    assert (added.code, ["flavour", name] in [line.split() for line in added.out.splitlines()]) == (0, True), added
