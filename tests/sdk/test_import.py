"""`import mainspring` is light, and its table, its stub and its promises agree."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import mainspring

HEAVY = ("pydantic", "numpy", "pandas", "httpx2", "msgspec", "rich", "cyclopts", "fastapi", "sqlalchemy", "nicegui")


def test_importing_is_fast_and_loads_nothing_heavy():
    code = "import sys, mainspring; print([name for name in sys.argv[1:] if name in sys.modules])"
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code, *HEAVY], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"
        line = next(line for line in done.stderr.splitlines() if line.endswith("| mainspring"))
        times.append(int(line.split("|")[1]))
    assert min(times) < 60_000


def test_user_code_on_a_node_loads_no_client():
    """A task's module is imported by every run of it: what it loads is most of what a short run costs."""
    code = "import sys, mainspring as ms; ms.task(gpus=1)(len); ms.log_metric; ms.log_artifact; ms.should_stop; ms.checkpoint; "
    code += "print(sorted(name for name in sys.modules if name.startswith('mainspring.client') or name in sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY, "asyncio", "ssl"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_tower_never_loads_pydantic_or_numpy():
    code = "import sys, mainspring as ms; [getattr(ms, name) for name in ms.__all__]; "
    code += "print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    heavy = ("pydantic", "numpy", "pandas", "fastapi", "sqlalchemy", "onnxruntime", "cloudpickle")
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_in_the_stub():
    stub = ast.parse(Path(mainspring.__file__).with_suffix(".pyi").read_text())
    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*told, "__version__"]) == mainspring.__all__
    assert mainspring.__all__ == dir(mainspring)
    for name, place in told.items():
        module = __import__(place.rpartition(".")[0], fromlist=["x"])
        assert getattr(mainspring, name) is getattr(module, name), name


def test_the_version_is_the_packages():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert mainspring.__version__ == project["project"]["version"]
