"""Check the house rules that no linter knows; print one line for each breach and end 1 where there is any.

Sizes of files and functions, names of modules, imports inside functions, what `__init__` may hold, a README in each room,
no import cycles, types decoded by one door, nothing of one machine in the sources. Documented in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mainspring"
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
SOURCES = ("src", "tests", "scripts", "benchmarks", "examples")
BAD_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"})
PRIVATE_PLACES = tuple("/" + name for name in ("work/main", "work/shared", "tmp/briefs"))
TEXTS = frozenset({".py", ".md", ".toml", ".yml", ".yaml", ".sh", ".css", ".js", ".html", ".json", ".sql", ""})

TABLES_OF_NAMES = (
    f"src/{PACKAGE}/__init__.py",
    f"src/{PACKAGE}/runner/shim/mainspring/__init__.py",
)  # lazy; a copy for old Pythons

# Where a project import may stand inside a function: (file, imported module). Everything else is at the top of its file.
LAZY: tuple[tuple[str, str], ...] = (
    ("src/mainspring/__init__.py", "mainspring.*"),  # the table of lazy names
    ("src/mainspring/cli/main.py", "mainspring.cli"),  # --version answers before any command is loaded
    ("src/mainspring/cli/main.py", "mainspring.cli.*"),
    ("src/mainspring/cli/*.py", "mainspring.app"),  # the server is loaded by the commands that are the server
    ("src/mainspring/cli/foreground.py", "mainspring.cli.dispatch"),  # a server has no command line in its memory
    ("src/mainspring/runner/agent.py", "mainspring.runner"),  # a run with a lock, a gang: only there
    ("src/mainspring/runner/setup.py", "mainspring.runner"),  # trees: a run without code needs none
    ("src/mainspring/runner/watch.py", "mainspring.runner"),  # where a run has a GPU
    ("src/mainspring/runner/housekeeping.py", "mainspring.runner"),  # beside user code, where nothing waits for it
    ("src/mainspring/sdk/task.py", "mainspring.sdk"),  # a node only calls the function: the client would be most of its start
    ("src/mainspring/sdk/task.py", "mainspring.sdk.calls"),
    ("src/mainspring/cli/*.py", "mainspring.settings"),  # pydantic: only where the server is
)


def main() -> int:
    """Print every breach; return 1 where there is one."""
    gc.disable()  # a million nodes that stay to the end are no garbage: looking for some takes half of the time
    found = breaches()
    for breach in found:
        print(breach)
    return 1 if found else 0


def breaches() -> list[str]:
    """Return one line for each breach, sorted."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in python_files()}
    found = [
        *sizes(trees),
        *module_names(trees),
        *inner_imports(trees),
        *package_files(trees),
        *rooms(),
        *cycles(trees),
        *private_places(),
        *typed_decoders(trees),
    ]
    return sorted(set(found))


def python_files() -> Iterator[Path]:
    """Yield every Python source of the project."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"__pycache__", ".venv", "build", "node_modules"} & set(path.parts):
                yield path


def shown(path: Path) -> str:
    """Return `path` relative to the project."""
    return path.relative_to(ROOT).as_posix()


def sizes(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yield files and functions that are too long to be read at once."""
    for path, tree in trees.items():
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > MAX_FILE_LINES:
            yield f"{shown(path)}: {length} lines; at most {MAX_FILE_LINES}: divide it by subject"
        for node in walked(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    yield f"{shown(path)}:{node.lineno}: {node.name} has {lines} lines; at most {MAX_FUNCTION_LINES}"


def module_names(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yield modules and packages whose names say nothing."""
    for path in trees:
        relative = path.relative_to(ROOT)
        for part in (*relative.parts[:-1], path.stem):
            if part in BAD_NAMES:
                yield f"{shown(path)}: {part!r} says nothing; name it after what is in it"


def inner_imports(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yield imports of the project inside functions, where `LAZY` does not allow them."""
    for path, tree in trees.items():
        if not shown(path).startswith("src/"):
            continue
        for function in walked(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in walked(function):
                for target in imported(node, path):
                    if target.split(".")[0] == PACKAGE and not is_lazy(path, target):
                        yield f"{shown(path)}:{node.lineno}: imports {target} inside {function.name}"  # type: ignore[attr-defined]


def is_lazy(path: Path, target: str) -> bool:
    """Say whether `LAZY` allows this import inside a function."""
    return any(fnmatch(shown(path), where) and fnmatch(target, what) for where, what in LAZY)


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """Yield the modules that an import statement names (nothing for other nodes); relative ones made absolute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            parts = path.relative_to(ROOT / "src").with_suffix("").parts
            start = parts[: len(parts) - node.level]
            yield ".".join((*start, *([node.module] if node.module else [])))
        elif node.module:
            yield node.module


def package_files(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yield `__init__` files that hold more than a docstring, re-exports and a sorted `__all__`."""
    for path, tree in trees.items():
        if path.name != "__init__.py" or not shown(path).startswith("src/") or shown(path) in TABLES_OF_NAMES:
            continue
        for node in tree.body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            if isinstance(node, ast.ImportFrom):
                continue
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
                names = ast.literal_eval(node.value)
                if list(names) != sorted(names):
                    yield f"{shown(path)}:{node.lineno}: __all__ is not sorted"
                continue
            yield f"{shown(path)}:{node.lineno}: only a docstring, re-exports and __all__ belong here"


def rooms() -> Iterator[str]:
    """Yield rooms (packages right below the package) without a README, and READMEs longer than a screen."""
    package = ROOT / "src" / PACKAGE
    for folder in sorted(package.iterdir()):
        if not folder.is_dir() or folder.name == "__pycache__" or not any(folder.rglob("*.py")):
            continue
        page = folder / "README.md"
        if not page.is_file():
            yield f"{shown(folder)}: the room has no README.md"
        elif len(page.read_text(encoding="utf-8").splitlines()) > 60:
            yield f"{shown(page)}: longer than one screen (60 lines)"


def cycles(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yield groups of modules that import each other at the top level (imports for type checkers count too)."""
    names = {module_name(path): path for path in trees if shown(path).startswith("src/")}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        inner = {id(node) for function in functions(trees[path]) for node in walked(function)}
        for node in walked(trees[path]):
            if id(node) in inner:
                continue
            for target in imported(node, path):
                members = [f"{target}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
                found = [member for member in members if member in names]
                graph[name].update(found or ([target] if target in names and target != name else []))
    for group in strongly_connected(graph):
        if len(group) > 1:
            yield f"import cycle: {' -> '.join(sorted(group))}"


@cache
def walked(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Return a node and all below it; several rules look at the same ones."""
    return tuple(ast.walk(tree))


def functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield every function of a module."""
    for node in walked(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def module_name(path: Path) -> str:
    """Return the dotted name of a file under src/."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def strongly_connected(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components. Kosaraju's algorithm, O(nodes + edges), without recursion."""
    order: list[str] = []
    seen: set[str] = set()
    for root in graph:
        stack: list[tuple[str, Iterator[str]]] = [(root, iter(sorted(graph[root])))] if root not in seen else []
        seen.add(root)
        while stack:
            node, children = stack[-1]
            child = next((name for name in children if name not in seen), None)
            if child is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(child)
                stack.append((child, iter(sorted(graph[child]))))
    backwards: dict[str, set[str]] = {name: set() for name in graph}
    for name, targets in graph.items():
        for target in targets:
            backwards[target].add(name)
    groups: list[set[str]] = []
    left = set(graph)
    for root in reversed(order):
        if root in left:
            group, todo = set(), [root]
            while todo:
                node = todo.pop()
                if node in left:
                    left.discard(node)
                    group.add(node)
                    todo.extend(backwards[node])
            groups.append(group)
    return groups


def typed_decoders(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yield where msgspec is asked for a type beside `core.codec`: two threads that read one at once end the process."""
    for path, tree in trees.items():
        if not shown(path).startswith(f"src/{PACKAGE}/") or shown(path) == f"src/{PACKAGE}/core/codec.py":
            continue
        for node in walked(tree):
            if isinstance(node, ast.Call):
                asked = ast.unparse(node.func)
                is_typed = len(node.args) > 1 or any(one.arg == "type" for one in node.keywords)
                if asked == "msgspec.json.Decoder" or (asked == "msgspec.json.decode" and is_typed):
                    yield f"{shown(path)}:{node.lineno}: {asked} of a type: core.codec.decoder, which reads one at a time"


def private_places() -> Iterator[str]:
    """Yield lines that name places of one machine."""
    for folder in (*SOURCES, "docs", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in TEXTS or not path.is_file() or "__pycache__" in path.parts:
                continue
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError:
                continue
            for number, line in enumerate(lines, 1):
                if any(place in line for place in PRIVATE_PLACES):
                    yield f"{shown(path)}:{number}: names a place of one machine"


if __name__ == "__main__":
    sys.exit(main())
