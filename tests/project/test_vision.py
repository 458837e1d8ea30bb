"""The networks of examples/vision: the smallest learns through a pool, stopped on the way; Inception V4 is the published one."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYTHON = ".venv-examples/bin/python"


@pytest.fixture
def frameworks(project: Path, need: Callable[[bool, str, str], None]) -> Path:
    """Return the interpreter that has TensorFlow."""
    need((project / PYTHON).is_file(), "TensorFlow", "scripts/install examples")
    return project / PYTHON


@pytest.fixture
def pictures(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module that paints; it needs numpy alone."""
    monkeypatch.syspath_prepend(str(project / "examples/vision"))
    monkeypatch.delitem(sys.modules, "pictures", raising=False)
    import pictures

    return pictures


@pytest.mark.e2e
@pytest.mark.usefixtures("frameworks")
@pytest.mark.timeout(420)
def test_vgg16_is_stopped_once_and_learns_on_from_its_checkpoint(project_command: Callable[..., Any]) -> None:
    done = project_command("scripts/vision", "--json", "vgg16", timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has a checkpoint and is stopped" in done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["state"], row["tries"], row["steps"]) == ("succeeded", 2, 20)
    assert row["parameters"] == 14_714_688 + 4 * (512 + 1)  # Keras's documented count without its top, and four classes
    assert [step for step, _ in row["losses"]] == [0, 1, 2, 3, 4], "an epoch was lost, or counted twice"
    assert row["loss_last"] < 0.6 * row["loss_first"]


@pytest.mark.timeout(300)
def test_inception_v4_has_the_published_number_of_weights(
    project_command: Callable[..., Any], project: Path, frameworks: Path
) -> None:
    code = (
        "from inception_v4_network import inception_v4\n"
        "network = inception_v4(classes=1000)\n"
        "print(network.output_shape, sum(one.shape.num_elements() for one in network.trainable_weights))"
    )
    done = project_command(frameworks, "-c", code, cwd=project / "examples/vision", timeout_s=280)
    assert done.stdout.split("\n")[0] == "(None, 1000) 42679816", done.stdout + done.stderr


def test_shapes_are_balanced_and_differ_in_colour(pictures: Any) -> None:
    found, labels = pictures.shapes(32, 24)
    assert found.shape == (32, 24, 24, 3)
    assert sorted(labels) == sorted(list(range(4)) * 8)
    assert found.min() >= -1
    assert found.max() <= 1
    again, _ = pictures.shapes(32, 24)
    assert (again == found).all()
    for picture, label in zip(found, labels, strict=True):
        colour = pictures.COLOURS[label]
        assert (picture == colour).all(axis=2).sum() > 24


def test_boxes_hold_what_was_painted(pictures: Any) -> None:
    found, targets = pictures.scenes(20, 64)
    for picture, boxes, labels, mask in zip(found, targets["boxes"], targets["labels"], targets["mask"], strict=True):
        assert 1 <= mask.sum() <= pictures.MOST
        last = int(mask.sum()) - 1  # nothing was painted over it
        left, top, right, bottom = (int(edge) for edge in boxes[last])
        assert 0 <= left < right <= 64
        assert 0 <= top < bottom <= 64
        inside = (picture == pictures.COLOURS[labels[last]]).all(axis=2)[top:bottom, left:right]
        assert inside.any(axis=0).all()
        assert inside.any(axis=1).all()
        assert (boxes[int(mask.sum()) :] == 0).all()


def test_the_lock_pins_the_frameworks_and_what_the_product_needs(project: Path) -> None:
    lock = tomllib.loads((project / "examples/vision/uv.lock").read_text(encoding="utf-8"))
    wanted = tomllib.loads((project / "examples/vision/pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    pinned = {one["name"]: one for one in lock["package"]}
    for name, _, version in (word.partition("==") for word in wanted):
        assert name in pinned
        assert not version or pinned[name]["version"] == version
    product = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    locked = {one["name"] for one in pinned["mainspring"]["dependencies"]}
    missing = {word.partition(">=")[0] for word in product} - locked
    assert not missing, f"uv lock --project examples/vision: the product also needs {', '.join(sorted(missing))}"
