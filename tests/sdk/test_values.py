"""Values travel in the plainest form that brings them back."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core.codec import decode_any, encode
from mainspring.core.errors import UsageError
from mainspring.core.specs import ValueKind
from mainspring.sdk.datasets import Dataset
from mainspring.sdk.models import Model
from mainspring.sdk.values import from_value, is_json, to_value


class Odd:
    """No JSON, no table, no array."""

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return isinstance(other, Odd) and other.x == self.x

    __hash__ = None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "json"),
        ({"a": [1, 2.5, "x", None, True]}, "json"),
        (np.float64(0.5), "json"),
        (float("nan"), "pickle"),
        (2**70, "pickle"),
        ({1: "a"}, "pickle"),
        (Odd(3), "pickle"),
        ("x" * 300_000, "pickle"),
    ],
)
def test_kinds(shelf_client, value, kind):
    sent = to_value(shelf_client, value)
    assert sent.kind == kind
    back = from_value(shelf_client, sent)
    assert back == value or (back != back and value != value)


def test_frames_and_arrays_are_columns_and_numbers_not_pickles(shelf_client):
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    sent = to_value(shelf_client, frame)
    assert (sent.kind, sent.meta["rows"], sent.meta["columns"]) == (ValueKind.PARQUET, 2, ["a", "b"])
    pd.testing.assert_frame_equal(from_value(shelf_client, sent), frame)
    array = np.arange(6.0).reshape(2, 3)
    sent = to_value(shelf_client, array)
    assert sent.kind is ValueKind.NPY
    np.testing.assert_array_equal(from_value(shelf_client, sent), array)
    assert to_value(shelf_client, np.array([Odd(1)], dtype=object)).kind is ValueKind.PICKLE


def test_what_cannot_travel_is_named(shelf_client):
    with pytest.raises(UsageError, match="cannot travel"):
        to_value(shelf_client, io.StringIO("x") and (n for n in range(3)))


def test_a_data_set_travels_by_reference_and_once(shelf_client, shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("MAINSPRING_HOME", str(tmp_path / "home"))
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.txt").write_text("a")
    data = Dataset.from_path(folder)
    sent = to_value(shelf_client, data)
    assert (sent.kind, sent.digest) == (ValueKind.DATASET, data.digest)
    shelf.sent.clear()
    assert to_value(shelf_client, Dataset.from_path(folder)).digest == sent.digest
    assert shelf.sent == []
    told = data.__mainspring_save__(str(tmp_path / "out"))
    assert told["kind"] == "dataset"
    assert Dataset.__mainspring_load__(str(tmp_path / "out")).digest == sent.digest


def test_a_model_travels_by_reference(shelf_client, tmp_path, monkeypatch):
    monkeypatch.setenv("MAINSPRING_HOME", str(tmp_path / "home"))
    sent = to_value(shelf_client, Model(Odd(1)))
    assert (sent.kind, sent.meta["format"]) == (ValueKind.MODEL, "native")


@pytest.mark.property
@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=10,
    )
)
def test_what_counts_as_json_comes_back_the_same(value):
    if is_json(value):
        assert decode_any(encode(value)) == value
