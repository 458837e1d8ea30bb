"""Engines as they are used without us, each started for real: how to run one command on each, and how to add it as a cluster."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NOW = ("date", "+%s.%N")
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that runs. `run` blocks until a command has ended there, and returns what it printed.

    `run_many` is how many commands are run at once where people do not wait for each by itself.
    `peer` is what people type to use it bare, `add` what stands behind `mainspring cluster add`; with `cpu_milli` each,
    `at_once` runs fit. `up` and `env` are for `mainspring up`. `cycle_s` is how often its own scheduler begins runs, 0: at once.
    """

    name: str
    peer: str
    run: Callable[..., str]
    add: tuple[str, ...] = ()
    cpu_milli: int = 1000
    at_once: int = 10
    up: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    handle: Any = None
    cycle_s: float = 0.0
    run_many: Callable[[int, Sequence[str]], None] | None = None


@contextmanager
def local(_folder: Path) -> Iterator[Engine]:
    """This machine: a process."""
    yield Engine(name="local", peer="a process", run=_words, cpu_milli=200, up=("--cpus", "2"))


@contextmanager
def docker(folder: Path) -> Iterator[Engine]:
    """A Docker daemon of its own."""
    starter = _starter("docker")
    with starter.share(folder / "docker") as engine:
        add = ("docker", "--host", engine.url, "--image", starter.IMAGE, "--cpus", "10", "--memory", "4GiB")

        def run(*command: str) -> str:
            return str(engine.run("run", "--rm", "--network", "host", starter.IMAGE, *command))

        yield Engine(name="docker", peer="docker run", run=run, add=add)


@contextmanager
def podman(folder: Path) -> Iterator[Engine]:
    """A podman with its service."""
    starter = _starter("podman")
    image = _starter("docker").IMAGE
    with starter.share(folder / "podman") as engine:
        add = ("podman", "--host", engine.url, "--image", image, "--cpus", "10", "--memory", "4GiB")

        def run(*command: str) -> str:
            return str(engine.run("run", "--rm", "--network", "host", image, *command))

        yield Engine(name="podman", peer="podman run", run=run, add=add)


@contextmanager
def ssh(folder: Path) -> Iterator[Engine]:
    """A host with an sshd, in a network of its own."""
    with _starter("ssh").share(folder / "ssh") as hosts:
        address = hosts.addresses["bm1"]
        words = ["ssh", "-i", hosts.key, "-o", f"UserKnownHostsFile={folder}/known", "-o", "StrictHostKeyChecking=accept-new"]
        words += ["-o", "LogLevel=ERROR", f"root@{address}"]
        add = ("ssh", address, "--user", "root", "--key", hosts.key, "--accept-new", "--min-free-gib", "0.01")
        yield Engine(name="ssh", peer="ssh HOST COMMAND", run=lambda *command: _words(*words, *command), add=add, cpu_milli=200)


@contextmanager
def slurm(folder: Path) -> Iterator[Engine]:
    """A Slurm of two nodes."""
    with _starter("slurm").share(folder / "slurm") as engine:
        shared = Path(engine.folder) / "shared" / "bench"
        shared.mkdir(parents=True)
        numbers = itertools.count()
        asked = ("--cpus-per-task=1", "--mem=64M")  # a job that names no memory takes all of its node's

        def run(*command: str) -> str:
            out = shared / f"{next(numbers)}.out"
            engine.run("sbatch", "--wait", "--parsable", *asked, f"--output={out}", f"--wrap={' '.join(command)}")
            return out.read_text()

        def run_many(count: int, command: Sequence[str]) -> None:
            """Submit all of them and look until none is left: `sbatch --wait` looks once in ten seconds."""
            for _ in range(count):
                engine.run("sbatch", "--parsable", *asked, "--output=/dev/null", f"--wrap={' '.join(command)}")
            while engine.run("squeue", "--noheader", "--format=%i").strip():
                time.sleep(0.1)

        add = ("slurm", "local", "--folder", str(shared / "ours"))
        yield Engine(name="slurm", peer="sbatch", run=run, run_many=run_many, add=add, env=engine.env, cycle_s=1.0)


@contextmanager
def kubernetes(folder: Path) -> Iterator[Engine]:
    """A whole Kubernetes of one node."""
    starter = _starter("kubernetes.cluster")
    with starter.share(folder / "kubernetes") as engine:
        config = engine.kubeconfig()
        numbers = itertools.count()

        def kubectl(*words: str) -> str:
            return _words("kubectl", "--kubeconfig", config, *words)

        def run(*command: str) -> str:
            name = f"bare-{next(numbers)}"
            words = f"{' '.join(command)} >/dev/termination-log"  # logs need a right of the kubelet's that tests do not have
            _words("kubectl", "--kubeconfig", config, "create", "-f", "-", text=json.dumps(_job(name, starter.IMAGE, words)))
            kubectl("wait", "--for=condition=complete", f"job/{name}", f"--timeout={LIMIT_S:g}s")
            last = "{.items[0].status.containerStatuses[0].state.terminated.message}"
            told = kubectl("get", "pods", "--selector", f"job-name={name}", "--output", f"jsonpath={last}")
            kubectl("delete", "job", name, "--wait=false")
            return told

        add = ("kubernetes", "--kubeconfig", config, "--image", starter.IMAGE)
        yield Engine(
            name="kubernetes",
            peer="kubectl create job",
            run=run,
            add=add,
            cpu_milli=300,
            at_once=6,  # its node has two CPUs
            up=("--bind", engine.address),
            handle=engine,
        )


ENGINES: Mapping[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "local": local,
    "docker": docker,
    "podman": podman,
    "ssh": ssh,
    "slurm": slurm,
    "kubernetes": kubernetes,
}


def crowd(engine: Any, name: str, pods: int) -> None:
    """Give a Kubernetes a node that exists by our word only, with room for `pods` pods that never end."""
    engine.ask("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
    has = {"cpu": str(pods), "memory": f"{pods}Gi", "pods": str(pods + 10), "ephemeral-storage": "1Ti"}
    beat(engine, name, {"capacity": has, "allocatable": has})


def beat(engine: Any, name: str, more: Mapping[str, object] | None = None) -> None:
    """Say of such a node that it is well, as its kubelet would: one that is silent for a minute is given up with its pods."""
    told = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now(), "message": ""}
    status = {"status": {**(more or {}), "conditions": [told]}}
    engine.ask("PATCH", f"/api/v1/nodes/{name}/status", status, "application/strategic-merge-patch+json")


def _job(name: str, image: str, words: str) -> dict[str, object]:
    """Return what `kubectl create job` makes, with a folder for the token that a real cluster adds: kubelets wait for volumes."""
    mount = {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
    container = {"name": name, "image": image, "command": ["sh", "-c", words], "volumeMounts": [mount]}
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": [{"name": "token", "emptyDir": {}}]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": pod}}}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _starter(name: str) -> Any:
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module(f"engines.{name}")


def _words(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=LIMIT_S, env={**os.environ})
    if done.returncode:
        raise RuntimeError(f"{json.dumps(command[:3])} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
