"""Build the program of Kubernetes' parts from this folder with Go, once for each state of its sources.

`python scripts/engines/kubernetes/program.py` builds it, and the image of tests: five minutes from nothing, seconds with Go's own
cache warm. `scripts/install test` begins that in the background; tests that come earlier wait for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # when it is called as a script

from engines.images import cache_folder, made_by_one, python_layer  # noqa: E402

SOURCES = ("main.go", "go.mod", "go.sum")
VERSION = "1.34.2"  # 1.35 refuses control groups of version 1


def program() -> Path:
    """Return the program, built if it is not there; whoever comes meanwhile waits."""
    target = _target()
    if not target.exists():
        with made_by_one(target.name):
            if not target.exists():
                _build(target)
    return target


def can_be_built() -> bool:
    """Say whether the program is there, or Go to build it with."""
    return _target().exists() or shutil.which("go") is not None


def _target() -> Path:
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES)).hexdigest()
    return cache_folder() / f"kubernetes-{digest[:16]}"


def _build(target: Path) -> None:
    draft = target.with_name(f"{target.name}.draft")
    major, minor, _ = VERSION.split(".")
    told = "k8s.io/component-base/version"
    flags = f"-s -w -X {told}.gitVersion=v{VERSION} -X {told}.gitMajor={major} -X {told}.gitMinor={minor}"
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-p=2 -buildvcs=false"}
    words = ["nice", "-n", "10", "go", "build", "-trimpath", "-ldflags", flags, "-o", str(draft), "."]
    done = subprocess.run(words, cwd=HERE, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"The program of Kubernetes cannot be built:\n{done.stderr[-2000:]}")
    draft.replace(target)


if __name__ == "__main__":
    print(python_layer())
    print(program())
