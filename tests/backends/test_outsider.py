"""A backend from outside the package, with what the documentation names, passes the shipped contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mainspring.core.backend import Backend
from mainspring.core.records import Cluster
from mainspring.testing.backend import BackendContract

EXAMPLE = Path(__file__).parents[2] / "examples" / "mainspring-process" / "src"


class TestOutsider(BackendContract):
    @pytest.fixture
    def backend(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(str(EXAMPLE))
        engine = __import__("mainspring_process").ENGINE
        return engine.create(Cluster(id="x", name="x", backend="process", config={"gpus": 2}), tmp_path, self.installation)

    def reborn(self, backend: Backend) -> Any:
        return sys.modules["mainspring_process"].ENGINE.create(backend.cluster, backend.folder, self.installation)  # type: ignore[attr-defined]
