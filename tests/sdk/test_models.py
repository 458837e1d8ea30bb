"""Models: converted and verified where that is possible, kept as they are where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mainspring.core.errors import UsageError
from mainspring.sdk.models import Model


@pytest.fixture
def rows():
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32), columns=["a", "b", "c"])
    return x, (x["a"] + x["b"] > 0).astype(int)


def _saved(model, folder):
    model.save(folder)
    return json.loads((folder / "model.json").read_text()), Model.open(folder)


def test_a_classifier_is_converted_verified_and_predicts_the_same(rows, tmp_path):
    x, y = rows
    fitted = LogisticRegression().fit(x, y)
    file, back = _saved(Model(fitted, sample=x, name="m"), tmp_path / "m")
    assert file["format"] == "onnx"
    assert [one["name"] for one in file["signature"]["inputs"]] == ["a", "b", "c"]
    assert file["verification"]["is_verified"]
    assert file["verification"]["rows"] == 80
    assert file["verification"]["max_abs_difference"] < 1e-4
    np.testing.assert_allclose(back.predict_proba(x), fitted.predict_proba(x), atol=1e-4)
    assert (back.predict(x) == fitted.predict(x)).all()


def test_a_regressor_on_an_array(rows, tmp_path):
    x, y = rows[0].to_numpy(), rows[0].to_numpy().sum(axis=1)
    fitted = RandomForestRegressor(n_estimators=5, random_state=0).fit(x, y)
    file, back = _saved(Model(fitted, sample=x), tmp_path / "m")
    assert file["format"] == "onnx"
    assert file["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 3]}]
    np.testing.assert_allclose(back.predict(x), fitted.predict(x), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_converted_is_kept_native_and_says_why(rows, tmp_path):
    x, y = rows
    fitted = make_pipeline(FunctionTransformer(np.sin), LogisticRegression()).fit(x, y)
    file, back = _saved(Model(fitted, sample=x), tmp_path / "m")
    assert file["format"] == "native"
    assert not file["verification"]["is_verified"]
    assert file["verification"]["note"]
    assert not (tmp_path / "m/model.onnx").exists()
    np.testing.assert_array_equal(back.predict(x), fitted.predict(x))


def test_a_conversion_that_predicts_something_else_is_refused(rows, tmp_path):
    x, y = rows

    class Liar(LogisticRegression):
        def predict_proba(self, rows):
            return super().predict_proba(rows)[:, ::-1]

    file, _ = _saved(Model(Liar().fit(x, y), sample=x), tmp_path / "m")
    assert file["format"] == "native"


def test_without_a_sample_nothing_is_claimed(rows, tmp_path):
    file, _ = _saved(Model(LogisticRegression().fit(*rows)), tmp_path / "m")
    assert (file["format"], file["verification"]["is_verified"]) == ("native", False)


def test_a_model_needs_a_name_and_a_version_where_they_are_used(rows):
    fitted = Model(LogisticRegression().fit(*rows))
    with pytest.raises(UsageError, match="needs a name"):
        fitted.register()
    with pytest.raises(UsageError, match="registered"):
        fitted.alias("champion")


SAVES = """
import os, sys
import mainspring as ms
path = ms.Model({"weights": 1}).path
if not (child := os.fork()):
    sys.exit(0)
os.waitpid(child, 0)
print(sorted(os.listdir(path)))
"""


def test_where_a_model_was_saved_to_be_sent_goes_with_the_process(tmp_path):
    """A node would fill up with them, one for each trial of each sweep."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SAVES], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "['model.json', 'model.pkl']\n"), done
    assert list(tmp_path.iterdir()) == []
