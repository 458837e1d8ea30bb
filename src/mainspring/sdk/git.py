"""What git knows of a folder. By the git command: no library reads every repository that git reads."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

MAX_DIFF_BYTES = 32 << 20
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class GitFacts:
    """Where code came from: `diff` is against the commit, empty when nothing tracked was changed (or it is huge)."""

    commit: str = ""
    branch: str = ""
    remote: str = ""
    diff: bytes = b""
    is_dirty: bool = False


def git_root(folder: Path) -> Path | None:
    """Return the top of the working tree that holds `folder`, None without git or outside of one."""
    said = _git(folder, "rev-parse", "--show-toplevel")
    text = os.fsdecode(said).strip() if said is not None else ""
    return Path(text) if text else None


def is_git_ignored(folder: Path) -> bool:
    """Say whether the working tree around `folder` ignores it: then its git does not speak for it."""
    return _git(folder, "check-ignore", "-q", ".") is not None


def git_files(root: Path) -> list[str] | None:
    """Return tracked and untracked files less `.gitignore`, relative; a folder with its own repository is one entry."""
    said = _git(root, "ls-files", "-co", "--exclude-standard", "-z")
    if said is None:
        return None
    return sorted({os.fsdecode(name).rstrip("/") for name in said.split(b"\0") if name})


def git_facts(root: Path) -> GitFacts:
    """Return commit, branch, remote and what is not committed."""
    status = _git(root, "status", "--porcelain=v2", "--branch", "-z")
    if status is None:
        return GitFacts()
    lines = [os.fsdecode(line) for line in status.split(b"\0") if line]
    head = {line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in lines if line.startswith("# ")}
    commit = head.get("branch.oid", "")
    commit = "" if commit.startswith("(") else commit
    is_dirty = any(not line.startswith("# ") for line in lines)
    diff = b""
    if is_dirty and commit:
        diff = _git(root, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--", ".", ":(exclude,glob)**/.env*") or b""
    branch = head.get("branch.head", "")
    remote = os.fsdecode(_git(root, "config", "--get", "remote.origin.url") or b"").strip()
    return GitFacts(
        commit=commit,
        branch="" if branch.startswith("(") else branch,
        remote=without_password(remote),
        diff=diff if len(diff) <= MAX_DIFF_BYTES else b"",
        is_dirty=is_dirty,
    )


def without_password(remote: str) -> str:
    """Return the remote's address without user and password; `git@host:path` stays as it is."""
    if "://" not in remote:
        return remote
    parts = urlsplit(remote)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _git(folder: Path, *words: str) -> bytes | None:
    """Return what git says, None when it fails or is not there."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "-c", "core.quotepath=off", *words],
            capture_output=True,
            check=False,
            env=environ,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
