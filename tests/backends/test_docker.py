"""The Docker backend passes the shipped contract against a real daemon, and keeps its own promises."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from engines.docker import IMAGE

from mainspring.backends.docker import ENGINE
from mainspring.backends.docker.backend import DockerBackend
from mainspring.core.records import Cluster
from mainspring.testing.backend import BackendContract

pytestmark = pytest.mark.engine


def make(engine: Any, folder: Path, installation: str, **config: object) -> DockerBackend:
    given = {"host": engine.url, "image": IMAGE, "cpus": 4, "gpus": 2, "gpu_model": "toy", **config}
    made = ENGINE.create(Cluster(id="box", name="box", backend="docker", config=given), folder, installation)
    assert isinstance(made, DockerBackend)
    return made


class TestDocker(BackendContract):
    installation = f"inst-docker-{os.getpid()}"  # workers of a session share the daemon

    @pytest.fixture
    def backend(self, docker_engine: Any, tmp_path: Path) -> DockerBackend:
        return make(docker_engine, tmp_path, self.installation)
