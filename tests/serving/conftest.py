"""Small models of every kind, made once a session, and real replicas that serve them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

FIELDS = ["dep_hour", "distance", "day", "wind"]


def _signature(fields: list[str], dtype: str = "float32") -> dict[str, object]:
    return {
        "inputs": [{"name": name, "dtype": dtype} for name in fields],
        "outputs": [{"name": "label", "dtype": "int64"}, {"name": "probability", "dtype": "float32"}],
    }


def _write(folder: Path, model: dict[str, object], files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(model))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def table() -> tuple[np.ndarray, np.ndarray]:
    """Rows (400, 4) and their class: late when the hour and the wind are high."""
    rng = np.random.default_rng(7)
    rows = rng.uniform(0, 24, (400, 4)).astype(np.float32)
    return rows, (rows[:, 0] + rows[:, 3] > 24).astype(np.int64)


@pytest.fixture(scope="session")
def classifier(table: tuple[np.ndarray, np.ndarray]) -> object:
    """A fitted scikit-learn classifier."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=8, max_depth=4, random_state=1).fit(*table)


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory, classifier: object) -> Path:
    """The classifier as ONNX: one matrix in, label and probabilities out."""
    from skl2onnx import to_onnx

    made = to_onnx(classifier, np.zeros((1, 4), np.float32), options={"zipmap": False}, target_opset=18)
    model = {"format": "onnx", "name": "delays", "version": 3, "signature": _signature(FIELDS), "verification": {"rows": 200}}
    return _write(tmp_path_factory.mktemp("onnx"), model, {"model.onnx": made.SerializeToString()})


@pytest.fixture(scope="session")
def lightgbm_folder(tmp_path_factory: pytest.TempPathFactory, table: tuple[np.ndarray, np.ndarray]) -> tuple[Path, np.ndarray]:
    """A LightGBM classifier as ONNX, with the zipmap that converters leave in, and its own probabilities."""
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    fitted = lightgbm.LGBMClassifier(n_estimators=10, num_leaves=7, verbose=-1, n_jobs=1).fit(*table)
    made = convert_lightgbm(fitted, initial_types=[("X", FloatTensorType([None, 4]))], target_opset=15)
    model = {"format": "onnx", "name": "lgbm", "signature": _signature(FIELDS)}
    folder = _write(tmp_path_factory.mktemp("lightgbm"), model, {"model.onnx": made.SerializeToString()})
    return folder, fitted.predict_proba(table[0])[:, 1]


@pytest.fixture(scope="session")
def native_folder(tmp_path_factory: pytest.TempPathFactory, classifier: object) -> Path:
    """The classifier as a pickle."""
    model = {"format": "native", "loader": "pickle", "name": "native", "signature": _signature(FIELDS)}
    return _write(tmp_path_factory.mktemp("native"), model, {"model.pkl": pickle.dumps(classifier)})


@pytest.fixture(scope="session")
def mixed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regressor over text and numbers, by column name, one field optional."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"carrier": ["AA", "UA", "DL"] * 10, "hour": list(range(30)), "wind": [float(x) for x in range(30)]})
    columns = ColumnTransformer(
        [("one", OneHotEncoder(handle_unknown="ignore"), ["carrier"]), ("two", SimpleImputer(), ["hour", "wind"])]
    )
    fitted = make_pipeline(columns, LinearRegression()).fit(frame, frame["hour"] * 2.0)
    inputs = [
        {"name": "carrier", "dtype": "string"},
        {"name": "hour", "dtype": "int64"},
        {"name": "wind", "dtype": "float64", "optional": True},
    ]
    model = {"format": "native", "name": "mixed", "signature": {"inputs": inputs, "outputs": []}}
    return _write(tmp_path_factory.mktemp("mixed"), model, {"model.pkl": pickle.dumps(fitted)})


@pytest.fixture(scope="session")
def strict_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regressor that raises for a carrier it has not seen."""
    import pandas as pd
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    fitted = make_pipeline(OneHotEncoder(), LinearRegression()).fit(pd.DataFrame({"carrier": ["AA", "UA"] * 5}), [0.0, 1.0] * 5)
    model = {"format": "native", "name": "strict", "signature": {"inputs": [{"name": "carrier", "dtype": "string"}]}}
    return _write(tmp_path_factory.mktemp("strict"), model, {"model.pkl": pickle.dumps(fitted)})


class Replica:
    """A serving process: its address and how to end it."""

    def __init__(self, folder: Path, spool: Path) -> None:
        self.spool = spool
        env = {**os.environ, "MAINSPRING_SPOOL": str(spool), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mainspring.serving", "--model", str(folder)]
        self._said = spool / "said", spool / "logged"  # files: a full pipe would stop the replica
        with self._said[0].open("wb") as out, self._said[1].open("wb") as err:
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=err)
        self.address = self._wait(60)
        self.http = httpx2.Client(base_url=f"http://{self.address}", timeout=30)

    def _wait(self, limit_s: float) -> str:
        path = self.spool / "address"
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if path.exists():
                return path.read_text()
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        raise AssertionError(self._said[1].read_text())

    def end(self) -> tuple[int, str, str]:
        """Send SIGTERM and return (exit status, stdout, stderr)."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30)
        return status, self._said[0].read_text(), self._said[1].read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Replica]]:
    """Start replicas that end with the test."""
    started: list[Replica] = []

    def starter(folder: Path) -> Replica:
        spool = tmp_path / f"spool{len(started)}"
        spool.mkdir()
        started.append(Replica(folder, spool))
        return started[-1]

    yield starter
    for replica in started:
        replica.end()


@pytest.fixture(scope="session")
def replica(onnx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """One replica of the ONNX classifier for the whole session of this worker."""
    made = Replica(onnx_folder, tmp_path_factory.mktemp("spool"))
    yield made
    made.end()
