"""What a replica runs in: the lock of the run that made the model, and what serving needs beside it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

from mainspring.core.actors import Actor
from mainspring.core.errors import UsageError
from mainspring.core.manifests import read_manifest
from mainspring.core.records import Role, Run
from mainspring.core.specs import Environment, RunSpec, Value, ValueKind
from mainspring.services import endpoints, models, runs
from mainspring.services.serving import complete

EDITOR = Actor(name="ed", roles={"default": Role.EDITOR})


def test_a_lock_gets_what_serving_needs_and_keeps_what_it_has() -> None:
    lock = f"# mine\nnumpy==1.26.0 \\\n    --hash=sha256:{'a' * 64}\nUvicorn[standard]==0.30.0 ; python_version > '3'\nh11==0.14"
    text, added = complete(lock)
    assert added == [f"{name}=={version(name)}" for name in ("click", "msgspec")]
    assert text == lock + "".join(f"\n{one}" for one in added) + "\n"
    assert complete(text) == (text, [])


def made(house: Any, format: str = "native", **environment: str) -> Run:
    """Let a run end that returned a model; register it as `sums`."""
    spec = RunSpec(
        command=("python", "train.py"), name="train", environment=Environment(**environment), env={"UV_OFFLINE": "1", "X": "1"}
    )
    run, _ = runs.submit(house.ctx, EDITOR, spec)
    house.plan()
    house.begin(house.attempt_of(run))
    value = Value(kind=ValueKind.MODEL, digest=house.folder(**{"model.pkl": "weights"}), meta={"format": format})
    ended = house.end(run, outputs={"result": value})
    models.add_from_run(house.ctx, EDITOR, "sums", ended)
    return ended


def test_a_native_model_is_served_in_the_environment_of_its_run(house: Any) -> None:
    lock = house.ctx.blobs.put_bytes(b"alpha==1.0\n")
    run = made(house, interpreter="3.11", lock=lock)
    endpoint = endpoints.deploy(house.ctx, EDITOR, "sums", "sums@1")
    history = endpoints.revisions(house.ctx, EDITOR, "sums")
    spec = endpoints.serving_spec(house.ctx, endpoint, history[0])
    assert spec.command[:3] == ("python3", "-m", "mainspring.serving")
    assert (spec.environment.interpreter, spec.env) == ("3.11", {"UV_OFFLINE": "1"})
    assert house.ctx.blobs.get(spec.environment.lock).startswith(b"alpha==1.0\nuvicorn==")
    paths = [one.path for one in read_manifest(house.ctx.blobs.get(spec.code.manifest)).files]
    assert {"mainspring/__init__.py", "mainspring/core/codec.py", "mainspring/serving/__main__.py"} <= set(paths)
    runs.check_wanted(house.ctx, spec)
    told = endpoints.serves_in(house.ctx, endpoint, history)
    assert told.startswith(f"the environment of run train ({run.id}): lock {lock[:12]} and uvicorn==")


def test_what_serves_a_model_without_a_lock_is_told_as_it_is(house: Any) -> None:
    made(house, interpreter="/opt/python")
    endpoint = endpoints.deploy(house.ctx, EDITOR, "sums", "sums@1")
    history = endpoints.revisions(house.ctx, EDITOR, "sums")
    assert endpoints.serving_spec(house.ctx, endpoint, history[0]).environment.interpreter == "/opt/python"
    assert endpoints.serves_in(house.ctx, endpoint, history).startswith("/opt/python as it is there; on other machines")


def test_a_model_of_onnx_is_served_by_the_servers_own_python_whatever_made_it(house: Any) -> None:
    made(house, "onnx", interpreter="3.9", lock=house.ctx.blobs.put_bytes(b"alpha==1.0\n"))
    endpoint = endpoints.deploy(house.ctx, EDITOR, "sums", "sums@1")
    (revision,) = endpoints.revisions(house.ctx, EDITOR, "sums")
    spec = endpoints.serving_spec(house.ctx, endpoint, revision)
    assert spec.environment == Environment(interpreter=house.ctx.settings.python)


def test_a_python_that_is_too_old_to_serve_in_is_refused_before_there_is_a_revision(house: Any) -> None:
    made(house, interpreter="3.9", lock=house.ctx.blobs.put_bytes(b"alpha==1.0\n"))
    with pytest.raises(UsageError, match=r"made with Python 3\.9; serving needs 3\.11"):
        endpoints.deploy(house.ctx, EDITOR, "sums", "sums@1")
    assert endpoints.all(house.ctx, EDITOR) == []
