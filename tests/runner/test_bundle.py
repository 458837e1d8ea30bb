"""The zip: small, the same each time, Python 3.9 and the standard library alone."""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path

from mainspring.runner.bundle import build_bundle

SOURCES = Path(__file__).resolve().parents[2] / "src" / "mainspring" / "runner"


def test_the_zip_is_small_and_the_same_each_time(tmp_path: Path, bundle: Path) -> None:
    again = build_bundle(tmp_path / "again.zip")
    assert again.read_bytes() == bundle.read_bytes()
    assert bundle.stat().st_size <= 165_000
    assert "mainspring_runner/bundle.py" not in zipfile.ZipFile(bundle).namelist()


def test_every_module_is_python_3_9_and_imports_the_standard_library_alone() -> None:
    found = [path for path in SOURCES.rglob("*.py") if path.name != "bundle.py"]
    assert len(found) > 10
    for path in found:
        tree = ast.parse(path.read_text(), str(path), feature_version=(3, 9))
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Match), path
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names), (path, names)
