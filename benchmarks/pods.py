"""A real API server with thousands of pods: how long a list of them takes, what it costs in memory, and a server beside it.

The pods are ours by their labels, on no node, and as large as they come from the API. The look is made in a process of its own,
whose memory is nobody else's. The server has the cluster registered and has looked at it twice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.installation import command, installation, rss_mb
from benchmarks.report import report
from mainspring.backends.kubernetes.backend import KubernetesBackend
from mainspring.core.backend import Handle, ObservedState
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster

INSTALLATION, SPACE, THREADS = "inst-bench", "many", 8
BESIDE = 1000  # pods, for the server's memory
LOOKS_S = 40.0  # two looks at the inventory


def main() -> None:
    """Report the figures for `--pods`; `--look KUBECONFIG` is the process that looks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--look", default="")
    given = parser.parse_args()
    if given.look:
        print(json.dumps(look(given.look, given.pods)))
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from engines.kubernetes.cluster import share

    with tempfile.TemporaryDirectory() as folder, share(Path(folder)) as cluster:
        cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}})
        kubeconfig = cluster.kubeconfig("admin", SPACE)
        first = min(BESIDE, given.pods)
        fill(cluster, range(first))
        beside(kubeconfig, cluster.address, first)
        fill(cluster, range(first, given.pods))
        words = [sys.executable, "-m", "benchmarks.pods", "--look", kubeconfig, "--pods", str(given.pods)]
        told = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout)
        began = time.perf_counter()
        listing = ["kubectl", "--kubeconfig", kubeconfig, "get", "pods", "--no-headers"]
        subprocess.run(listing, check=True, stdout=subprocess.DEVNULL, timeout=300)
        peer_s = time.perf_counter() - began
    conditions: dict[str, object] = {"pods": given.pods}
    report("kubernetes", "list", told["list_s"], "s", peer="kubectl get pods", peer_value=peer_s, conditions=conditions)
    report("kubernetes", "look by the watch", told["look_s"], "s", conditions=conditions)
    report("kubernetes", "memory more at the height of a list", told["height_mb"], "MB", conditions=conditions)
    report("kubernetes", "memory more afterwards", told["kept_mb"], "MB", conditions=conditions)


def look(kubeconfig: str, pods: int) -> dict[str, float]:
    """List the pods and look again by the watch; return seconds, and the memory that came to be used."""
    with tempfile.TemporaryDirectory() as folder:
        config = {"kubeconfig": kubeconfig}
        made = KubernetesBackend(Cluster(id="m", name="m", backend="kubernetes", config=config), Path(folder), INSTALLATION)
        made.native(Handle(attempt=AttemptId("none"), replica=0))  # connected, everything loaded
        handles = [Handle(attempt=AttemptId(f"att-{number}"), replica=0, data={"job": "x"}) for number in range(pods)]
        before = status_mb("VmRSS")
        began = time.perf_counter()
        states = [one.state for one in made.observe(handles)]
        list_s = time.perf_counter() - began
        assert states == [ObservedState.RUNNING] * pods
        while made._watched is None or not made._watched._is_synced:
            time.sleep(0.01)
        began = time.perf_counter()
        made.observe(handles)
        look_s = time.perf_counter() - began
        height, kept = status_mb("VmHWM") - before, status_mb("VmRSS") - before
    return {"list_s": list_s, "look_s": look_s, "height_mb": height, "kept_mb": kept}


def beside(kubeconfig: str, address: str, pods: int) -> None:
    """Report what a server takes that has looked at this cluster."""
    with installation(up=("--bind", address, "--insecure-http")) as server:
        words = ["cluster", "add", "kubernetes", "--name", "many", "--kubeconfig", kubeconfig]
        done = command(server.home, *words)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        time.sleep(LOOKS_S)
        report("kubernetes", "memory of a server beside it", rss_mb(server.pid), "MB", conditions={"pods": pods})


def fill(cluster: Any, numbers: range) -> None:
    """Make pods that no scheduler takes."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: cluster.ask("POST", f"/api/v1/namespaces/{SPACE}/pods", idle_pod(number)), numbers))


def idle_pod(number: int) -> dict[str, object]:
    """Return a pod of ours by its labels, with as much in it as a run's."""
    marks = {"mainspring/installation": INSTALLATION, "mainspring/attempt": f"att-{number}", "mainspring/replica": "0"}
    env = [{"name": f"MAINSPRING_{index}", "value": "x" * 40} for index in range(5)]
    container = {"name": "run", "image": "a/b:1", "command": ["/bin/sh", "-c", "x" * 1000], "env": env}
    spec = {"schedulerName": "nobody", "automountServiceAccountToken": False, "containers": [container]}
    return {"metadata": {"name": f"idle-{number}", "labels": marks}, "spec": spec}


def status_mb(name: str) -> float:
    """Return a figure of this process in MB: VmRSS is used now, VmHWM was at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"The kernel tells no {name}.")


if __name__ == "__main__":
    main()
