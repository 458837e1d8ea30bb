"""The zip: small, the same each time, Python 3.9 and the standard library alone."""

from __future__ import annotations

import ast
import marshal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import CodeType

from mainspring.runner.bundle import bare, build_bundle

LATER = {"annotationlib", "compression", "tomllib"}  # modules that came after 3.9
SOURCES = Path(__file__).resolve().parents[2] / "src" / "mainspring" / "runner"


def test_the_zip_is_small_and_the_same_each_time(tmp_path: Path, bundle: Path) -> None:
    again = build_bundle(tmp_path / "again.zip")
    assert again.read_bytes() == bundle.read_bytes()
    assert bundle.stat().st_size <= 150_000
    assert "mainspring_runner/bundle.py" not in zipfile.ZipFile(bundle).namelist()


def test_threads_that_pack_at_once_get_the_same(tmp_path: Path) -> None:
    pack = (
        "import pathlib, sys; from concurrent.futures import ThreadPoolExecutor\n"
        "from mainspring.runner.bundle import build_bundle\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    made = list(pool.map(lambda n: build_bundle(pathlib.Path(sys.argv[1], f'{n}.zip')).read_bytes(), range(8)))\n"
        "assert len(set(made)) == 1\n"
    )  # in a process of its own: one that has packed keeps what it packed
    done = subprocess.run([sys.executable, "-c", pack, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
            assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names) - LATER, (path, names)


def test_compiled_modules_have_the_lines_of_their_sources(bundle: Path) -> None:
    archive = zipfile.ZipFile(bundle)
    compiled = [name for name in archive.namelist() if name.endswith(".pyc")]
    assert len(compiled) > 10
    for name in compiled:
        told = marshal.loads(archive.read(name)[16:])  # noqa: S302  (made by this test)
        source = archive.read(name[:-1])
        assert _lines(told) == _lines(compile(source, name[:-1], "exec", dont_inherit=True, optimize=2)), name


def test_what_only_people_read_is_left_out_and_every_line_stays_where_it_was() -> None:
    source = """\
from typing import Any
class Folder:
    number: int = 0  # asked of the class
    def read(self, name: str = "a: b -> c", *rest: int, deep: dict[str, int] | None = None, **more: Any) -> dict[str, "x -> y"]:
        \"\"\"Say what it does.\"\"\"
        self.seen: dict[str, int] = {}
        text: str = name  # a local one
        return {text: '''
# a line of text'''}
    def ä(self, name: str) -> str: return name
    def wide(
        self,
        name: str,
    ) -> None:
        pass
"""
    assert (
        bare(source)
        == """\

class Folder:
 number: int = 0
 def read(self, name = "a: b -> c", *rest, deep = None, **more):

  self.seen = {}
  text: str = name
  return {text: '''
# a line of text'''}
 def ä(self, name: str) -> str: return name
 def wide(
  self,
  name,
 ):
  pass
"""
    )


def _lines(code: CodeType) -> list[object]:
    """Return the line of each instruction, here and in all code inside."""
    found: list[object] = [line for start, end, line in code.co_lines() for _ in range(start, end, 2)]
    return found + [_lines(one) for one in code.co_consts if isinstance(one, CodeType)]
