"""Build the runner's zip: deterministic, so that its digest names its version. Runs on the server's side only."""

from __future__ import annotations

import ast
import functools
import importlib._bootstrap_external as importer
import io
import marshal
import os
import threading
import tokenize
import zipfile
from pathlib import Path
from types import CodeType

_HERE = Path(__file__).resolve().parent
_LEFT_OUT = frozenset({"bundle.py"})
# Loaded once for each server or connection to a host, in a gang, where there is code to lay out, when somebody wants into an
# attempt, or beside a build or user code that takes longer: not worth their size.
_NOT_COMPILED = frozenset(
    {
        "captures.py",
        "environments.py",
        "forks.py",
        "gpus.py",
        "host.py",
        "installers.py",
        "limits.py",
        "members.py",
        "peers.py",
        "trees.py",
        "tunnel.py",
        "websocket.py",
    }
)
# The agent's half is not loaded in user code's process, nor the other way round; the fork server has it ready.
_MAIN = """import sys

if sys.argv[1:2] == ["--entry"]:
    from mainspring_runner.entry import main
elif sys.argv[1:2] == ["--fork-server"]:
    from mainspring_runner.forks import main
else:
    from mainspring_runner.agent import main
sys.exit(main(sys.argv[-1]) if len(sys.argv) > 1 else "usage: runner.zip ATTEMPT_FOLDER")
"""
_MOMENT = (2020, 1, 1, 0, 0, 0)
_PACKING = threading.Lock()  # Python 3.11 cannot parse in two threads at once (python/cpython#106905)


def build_bundle(target: Path) -> Path:
    """Write the zip to `target` and return it: equal bytes from equal sources and Python. Any number may call it at once.

    It has the modules compiled for this Python too (compiling is half of the start otherwise); another one compiles them itself.
    What people read (docstrings, comments) is left out. A process packs once, and keeps the bytes.
    """
    with _PACKING:
        data = _packed()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(target)
    return target


@functools.cache
def _packed() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        for path in sorted(_HERE.glob("*.py")):
            if path.name not in _LEFT_OUT:
                _add_module(archive, f"mainspring_runner/{path.name}", path)
        for path in sorted((_HERE / "shim" / "mainspring").glob("*.py")):
            _add(archive, f"shim/mainspring/{path.name}", path.read_bytes())
    return packed.getvalue()


def _add_module(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    source = bare(path.read_text(encoding="utf-8"))
    _add(archive, name, source.encode())
    if path.name in _NOT_COMPILED:
        return
    code = compile(source, name, "exec", dont_inherit=True, optimize=2)  # without docstrings
    # version 2 writes what is shared each time anew: what counts as shared differs from call to call
    head: bytes = importer._code_to_hash_pyc(code, b"\0" * 8, False)[:16]  # type: ignore[attr-defined]
    _add(archive, name + "c", head + marshal.dumps(_without_columns(code), 2))


def _without_columns(code: CodeType) -> CodeType:
    """Return the code with lines and without columns, as `python -X no_debug_ranges` makes it: a sixth of the zip is saved.

    The format is that of CPython's Objects/locations.md.
    """
    table, line = bytearray(), code.co_firstlineno
    for start, end, at in code.co_lines():
        units = (end - start) // 2
        while units > 0:
            size = min(units, 8)
            units -= size
            if at is None:
                table.append(0x80 | 15 << 3 | size - 1)
                continue
            table.append(0x80 | 13 << 3 | size - 1)
            delta = at - line
            line = at
            rest = -delta << 1 | 1 if delta < 0 else delta << 1
            while rest >= 64:
                table.append(64 | rest & 63)
                rest >>= 6
            table.append(rest)
    inner = tuple(_without_columns(one) if isinstance(one, CodeType) else one for one in code.co_consts)
    return code.replace(co_linetable=bytes(table), co_consts=inner)


def bare(source: str) -> str:
    """Return a module without what only people and type checkers read, each line where it was: a traceback names lines of it.

    Nobody asks for a type there, and to load `typing` takes a tenth of the start.
    """
    source = _untyped(source)
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            at = token.start[0] - 1
            lines[at] = lines[at][: token.start[1]].rstrip()
    tree = ast.parse(source)
    kept = {line for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr) for line in _inner_lines(node)}
    for one in tree.body:
        is_name = isinstance(one, ast.ImportFrom) and one.module == "typing"
        if is_name or (isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"):
            lines[one.lineno - 1 : one.end_lineno] = [""] * ((one.end_lineno or one.lineno) - one.lineno + 1)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or ast.get_docstring(node, clean=False) is None:
            continue
        said = node.body[0]
        if len(node.body) > 1:
            lines[said.lineno - 1 : said.end_lineno] = [""] * ((said.end_lineno or said.lineno) - said.lineno + 1)
    for at, line in enumerate(lines):  # a space for each level
        if at + 1 not in kept:
            words = line.lstrip(" ")
            lines[at] = " " * ((len(line) - len(words)) // 4) + words
    return "\n".join(lines) + "\n"


def _untyped(source: str) -> str:
    """Return the source without the types of arguments, of results and of attributes; those over several lines stay."""
    lines, cuts = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg) and node.annotation is not None:
            cuts.append((node.lineno, node.col_offset + len(node.arg), node.annotation))
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            at = node.returns.lineno
            cuts.append((at, lines[at - 1].rfind(" ->", 0, node.returns.col_offset), node.returns))
        elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Attribute):
            cuts.append((node.lineno, node.target.end_col_offset or 0, node.annotation))
    for at, start, kind in sorted(cuts, key=lambda cut: cut[:2], reverse=True):
        line = lines[at - 1]
        rest = line[kind.end_col_offset :]
        if start >= 0 and kind.lineno == kind.end_lineno == at and line.isascii() and rest.startswith((":", ",", ")", " =")):
            lines[at - 1] = line[:start] + rest  # columns count bytes
    return "\n".join(lines) + "\n"


def _inner_lines(text: ast.Constant | ast.JoinedStr) -> range:
    """Return the lines that begin within a string."""
    return range(text.lineno + 1, (text.end_lineno or text.lineno) + 1)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _MOMENT)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data, compresslevel=9)
