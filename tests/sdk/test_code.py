"""What travels as code, and what never does."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core.errors import ArtifactError, TooLargeError
from mainspring.core.manifests import read_manifest
from mainspring.sdk import code as code_module
from mainspring.sdk.code import bundle, send_code
from mainspring.sdk.git import git_facts, without_password
from mainspring.sdk.ignore import is_below_ignored, parse_ignore

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"


def _write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _names(root, cache):
    return [entry.path for entry in bundle(root, cache=cache).files]


def test_tracked_changed_and_untracked_files_travel_ignored_ones_do_not(tmp_path, git):
    root = tmp_path / "code"
    _write(root, {"train.py": "1", "gone.py": "1", ".gitignore": "data/\n*.log\n"})
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    _write(root, {"train.py": "2", "new.py": "3", "data/big.bin": "4", "out.log": "5"})
    (root / "gone.py").unlink()
    found = bundle(root, cache=tmp_path / "cache")
    assert [entry.path for entry in found.files] == [".gitignore", "new.py", "train.py"]
    assert found.git.commit == git("rev-parse", "HEAD").strip()
    assert (found.git.branch, found.git.is_dirty) == ("main", True)
    assert b"+2" in found.git.diff


def test_secrets_keys_and_environments_never_travel_even_when_tracked(tmp_path, git):
    root = tmp_path / "code"
    files = {
        ".env": "PASSWORD=x", "sub/.env.local": "x", "id_rsa": KEY, "id_rsa.pub": "public", "server.pem": KEY,
        "ca.pem": "CERTIFICATE", "venv/pyvenv.cfg": "x", "venv/lib/a.py": "x", "a.py": "x", "__pycache__/a.pyc": "x",
    }  # fmt: skip
    _write(root, files)
    git("add", "-A", "-f")
    git("commit", "-q", "-m", "all of it")
    (root / ".env").write_text("PASSWORD=changed")
    found = bundle(root, cache=tmp_path / "cache")
    assert [entry.path for entry in found.files] == ["a.py", "ca.pem", "id_rsa.pub"]
    assert b"PASSWORD" not in found.git.diff


@pytest.mark.parametrize("is_git", [True, False])
def test_the_installation_itself_never_travels(tmp_path, git, monkeypatch, is_git):
    root = tmp_path / ("code" if is_git else "plain")
    home = root / "state [1]"
    (home / "inner").mkdir(parents=True)
    (home / "login.json").write_text("token")
    (home / "inner" / "blob").write_text("x")
    (root / "train.py").write_text("print()")
    monkeypatch.setenv("MAINSPRING_HOME", str(home))
    assert [entry.path for entry in bundle(root, cache=tmp_path / "cache").files] == ["train.py"]


def test_mainspringignore_leaves_out_tracked_files_too(tmp_path, git):
    root = tmp_path / "code"
    _write(root, {"a.py": "1", "big/x": "1", "big/keep.txt": "1", ".mainspringignore": "big/*\n!big/keep.txt\n"})
    git("add", "-A")
    assert _names(root, tmp_path / "cache") == [".mainspringignore", "a.py", "big/keep.txt"]


def test_the_working_folder_is_inside_the_root(tmp_path, git):
    root = tmp_path / "code"
    _write(root, {"lib/x.py": "1", "jobs/train.py": "1"})
    found = bundle(root / "jobs", cache=tmp_path / "cache")
    assert (found.folder, [entry.path for entry in found.files]) == ("jobs", ["jobs/train.py", "lib/x.py"])


def test_a_folder_that_git_ignores_speaks_for_itself(tmp_path, git):
    root = tmp_path / "code"
    _write(root, {".gitignore": "scratch/\n", "scratch/try.py": "1", "a.py": "1"})
    assert _names(root / "scratch", tmp_path / "cache") == ["try.py"]


def test_without_git_the_ignore_files_are_read(tmp_path):
    root = tmp_path / "plain"
    files = {".gitignore": "*.tmp\n/top\n", "sub/.gitignore": "*.csv\n", ".venv/pyvenv.cfg": "", "tools/id_ed25519": KEY}
    _write(root, files)
    _write(root, dict.fromkeys(("a.py", "b.tmp", "top", "sub/top", "sub/x.csv", "x.csv", ".venv/b.py"), "1"))
    assert _names(root, tmp_path / "cache") == [".gitignore", "a.py", "sub/.gitignore", "sub/top", "x.csv"]


def test_links_inside_are_copied_links_outside_are_refused(tmp_path):
    root = tmp_path / "plain"
    _write(root, {"real/a.py": "1"})
    (root / "alias").symlink_to("real")
    (root / "one.py").symlink_to("real/a.py")
    assert _names(root, tmp_path / "cache") == ["alias/a.py", "one.py", "real/a.py"]
    (tmp_path / "secret").write_text("x")
    (root / "leak").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="leak leads outside"):
        bundle(root, cache=tmp_path / "cache")
    (root / ".mainspringignore").write_text("leak\n")
    assert "leak" not in _names(root, tmp_path / "cache")


@pytest.mark.parametrize(("target", "said"), [(".", "circle"), ("missing", "nowhere")])
def test_links_that_lead_nowhere_or_round_are_named(tmp_path, target, said):
    root = tmp_path / "plain"
    _write(root, {"a.py": "1"})
    (root / "odd").symlink_to(target)
    with pytest.raises(ArtifactError, match=said):
        bundle(root, cache=tmp_path / "cache")


def test_only_what_changed_is_sent_again(tmp_path, git, shelf, shelf_client):
    root = tmp_path / "code"
    _write(root, {"a.py": "1", "b.py": "2"})
    first = send_code(shelf_client, root)
    shelf.sent.clear()
    assert send_code(shelf_client, root).manifest == first.manifest
    assert shelf.sent == []
    (root / "b.py").write_text("3")
    again = send_code(shelf_client, root)
    assert again.manifest != first.manifest
    assert len(shelf.sent) == 2
    assert [entry.path for entry in read_manifest(shelf.held[again.manifest]).files] == ["a.py", "b.py"]


def test_a_change_is_seen_even_with_the_cache(tmp_path):
    root = tmp_path / "plain"
    _write(root, {"a.py": "1"})
    os.utime(root / "a.py", ns=(10**18, 10**18))
    before = bundle(root, cache=tmp_path / "cache").files[0].digest
    (root / "a.py").write_text("2")
    assert bundle(root, cache=tmp_path / "cache").files[0].digest != before


def test_much_code_is_asked_about(tmp_path, shelf_client, monkeypatch):
    root = tmp_path / "plain"
    _write(root, {"large.bin": "x" * 2000, "a.py": "1"})
    monkeypatch.setattr(code_module, "ASK_BYTES", 1000)
    with pytest.raises(TooLargeError, match=r"large\.bin"):
        send_code(shelf_client, root)
    assert send_code(shelf_client, root, is_confirmed=True).manifest


def test_passwords_of_remotes_are_not_kept():
    assert without_password("https://ann:token@host.example/x.git") == "https://host.example/x.git"
    assert without_password("git@host.example:x.git") == "git@host.example:x.git"


def test_a_repository_without_a_commit_has_no_facts_but_files(tmp_path, git):
    _write(tmp_path / "code", {"a.py": "1"})
    assert git_facts(tmp_path / "code").commit == ""
    assert _names(tmp_path / "code", tmp_path / "cache") == ["a.py"]


_PATTERNS = [
    "*.log",
    "/a",
    "a/",
    "a/b",
    "**/b",
    "a/**",
    "a/**/c",
    "!a.log",
    "?.py",
    "[ab].py",
    "[!a].py",
    "b*",
    "\\!x",
    "/a/*",
    "*",
    "!*/",
    "!c",
]
_PATHS = ["a", "a.log", "b.py", "a.py", "a/b", "a/c", "a/b/c", "b/a", "b/b.log", "c/a/b/c", "!x", "c/d/e.py"]


@pytest.mark.property
@settings(max_examples=40, deadline=None)
@given(lines=st.lists(st.sampled_from(_PATTERNS), min_size=1, max_size=5))
def test_the_patterns_mean_what_git_says(tmp_path_factory, lines):
    root = tmp_path_factory.mktemp("ignore")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text("\n".join(lines) + "\n")
    said = subprocess.run(
        ["git", "-C", str(root), "check-ignore", "--no-index", "--stdin"],
        input="\n".join(_PATHS),
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    patterns = parse_ignore("\n".join(lines))
    assert [path for path in _PATHS if is_below_ignored(path, patterns)] == [line.strip('"') for line in said], lines
