"""Code that a run left as it was goes to the next run; whatever was done to it, the next run finds what was sent."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mainspring.runner import trees

FILES = {"main.py": b"print('hello')\n", "deep/down/data.txt": b"1 2 3\n", "deep/other.txt": b"abc\n"}
LOOK = (
    "import os; found = sorted(os.path.relpath(os.path.join(at, one), '.') for at, _, names in os.walk('.') for one in names);"
    "print(found, [open(one).read() for one in found], os.stat('main.py').st_ino)"
)
DEEDS = {
    "nothing": ("pass", True),
    "reads": ("open('main.py').read()", True),
    "adds": ("os.makedirs('deep/new/er'); open('deep/new/er/x', 'w').write('x'); os.symlink('/etc', 'deep/etc')", True),
    "compiles": ("import main", True),
    "writes": ("open('main.py', 'w').write('print(1)')", False),
    "hides what it wrote": (
        "at = os.stat('main.py').st_mtime_ns; open('main.py', 'r+').write('prinT'); os.utime('main.py', ns=(at, at))",
        False,
    ),
    "links": ("os.link('main.py', os.environ['MAINSPRING_OUT'] + '/mine.py')", False),
    "deletes": ("os.unlink('deep/other.txt')", False),
    "replaces": ("os.rename('deep/other.txt', 'kept'); os.link('kept', 'deep/other.txt')", False),
    "makes executable": ("os.chmod('deep', 0o700)", False),
    "moves a folder": ("os.rename('deep', OTHER); os.symlink(OTHER, 'deep')", False),
    "moves it all": ("here = os.getcwd(); os.rename(here, OTHER); os.symlink(OTHER, here)", False),
}


def look(site: Any, server: Any, manifest: str, name: str, deed: str = "pass") -> str:
    """Run in a folder of its own on the same node; return what it found there at first."""
    root = site.root
    site.root = root.with_name(name)
    site.root.mkdir()
    for one in ("launch.json", "token"):
        (site.root / one).write_text((root / one).read_text())
    server.streams.clear()
    script = f"{LOOK}\nOTHER = {str(root.with_name('elsewhere'))!r}\n{deed}"
    site.spec(sys.executable, "-c", script, code={"manifest": manifest, "folder": "."})
    assert site.run() == 0
    assert server.exit["cause"] == "succeeded", server.log
    return str(server.log.decode().splitlines()[0])


@pytest.mark.parametrize("what", sorted(DEEDS))
def test_the_next_run_finds_what_was_sent_whatever_was_done_to_it(site: Any, server: Any, tmp_path: Path, what: str) -> None:
    deed, is_given_on = DEEDS[what]
    manifest = server.manifest(FILES)
    first = look(site, server, manifest, "first", deed)
    assert (len(list((tmp_path / "cache/trees").rglob("main.py"))) == 1) is is_given_on
    before = sorted(path.name for path in (tmp_path / "elsewhere").rglob("*"))
    second = look(site, server, manifest, "second")
    names = sorted(FILES)
    assert second.startswith(f"{names} {[FILES[name].decode() for name in names]} ")
    if is_given_on:
        assert second == first  # the same file, by its inode
    assert sorted(path.name for path in (tmp_path / "elsewhere").rglob("*")) == before
    assert not list((tmp_path / "second/work").glob("*"))


def test_two_that_work_at_once_have_a_tree_each_and_other_code_has_another(site: Any, server: Any, tmp_path: Path) -> None:
    manifest = server.manifest(FILES)
    look(site, server, manifest, "first")
    cache = str(tmp_path / "cache")
    assert trees.Tree(cache, manifest, str(tmp_path / "one")).take()
    assert not trees.Tree(cache, manifest, str(tmp_path / "two")).take()
    other = look(site, server, server.manifest({"main.py": b"other"}), "other")
    assert "other" in other
    assert "deep" not in other


def test_few_trees_are_kept_and_only_while_they_are_used(tmp_path: Path) -> None:
    for number in range(5):
        made = tmp_path / "trees" / f"manifest-{number}" / "seal"
        made.mkdir(parents=True)
        (made / "file").write_text("x")
        os.utime(made, (1_000 + number, 1_000 + number))
    (tmp_path / "trees/manifest-0/.42.left").mkdir()
    os.utime(tmp_path / "trees/manifest-0/.42.left", (1_000, 1_000))
    assert trees.clear(str(tmp_path), keeping=3) == 3
    assert sorted(path.name for path in (tmp_path / "trees").iterdir()) == ["manifest-2", "manifest-3", "manifest-4"]
    os.utime(tmp_path / "trees/manifest-3/seal")
    assert trees.clear(str(tmp_path), idle_s=60) == 2
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["manifest-3"]
