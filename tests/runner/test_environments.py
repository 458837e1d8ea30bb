"""Environments of a lock, built on the node by a real uv (and by pip) from wheels that the test made: no index is asked."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainspring.runner import cache
from mainspring.runner.environments import Environments

UV = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])) or ""
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def make_wheel(folder: Path, name: str, version: str, text: str = "", *, files: dict[str, bytes] | None = None) -> Path:
    """Write a wheel of one module; return its path."""
    inside = files or {f"{name}.py": f"version = {version!r}\n{text}".encode()}
    told = f"{name}-{version}.dist-info"
    inside = {
        **inside,
        f"{told}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{told}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, data in inside.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}\n")
    inside[f"{told}/RECORD"] = "".join([*lines, f"{told}/RECORD,,\n"]).encode()
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in inside.items():
            archive.writestr(path, data)
    return target


def pinned(*wheels: Path) -> str:
    """Return the lock of these wheels, with their hashes."""
    lines = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(lines)


class Node:
    """A node with a cache, and runs with a lock on it."""

    def __init__(self, site: Any, server: Any, wheels: Path) -> None:
        self.site, self.server, self.wheels = site, server, wheels
        self.cache = site.root.parent / "cache"
        self.path = [str(Path(UV).parent), *os.environ["PATH"].split(os.pathsep)]
        self.env = {"UV_OFFLINE": "1"}
        self.hides_uv = False

    @property
    def environments(self) -> Path:
        """Where they are kept."""
        return self.cache / "environments"

    def ask(self, lock: str, code: str, *, wheels: dict[str, bytes] | None = None, python: str = VERSION, **env: str) -> None:
        """Say that this code is to be run in the environment of this lock."""
        sent = {path.name: path.read_bytes() for path in self.wheels.glob("*.whl")} if wheels is None else wheels
        environment = {"interpreter": python, "lock": self.server.put(lock.encode())}
        if sent:
            environment["wheels"] = self.server.manifest(sent)
        self.site.spec("python", "-c", code, environment=environment, env={**self.env, **env})

    def start(self) -> Any:
        """Start a runner."""
        path = [one for one in self.path if not (self.hides_uv and (Path(one) / "uv").exists())]
        home = self.site.root.parent / "home"
        home.mkdir(exist_ok=True)
        return self.site.start(env={**os.environ, "PATH": os.pathsep.join(path), "HOME": str(home)})

    def run(self) -> None:
        """Run it to its end."""
        assert self.start().wait(60) == 0

    def again(self, name: str) -> None:
        """Go on in another folder of the same node, as another run does."""
        self.site.next()
        self.site.root = self.site.root.rename(self.site.root.with_name(name))
        self.server.exit = None

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return what the server was told of environments."""
        return [one for one in self.server.lines("events") if one["kind"] == kind]

    def keys(self) -> list[str]:
        """Return what is whole here."""
        return sorted(path.stem for path in self.environments.glob("*.json"))


@pytest.fixture
def node(site: Any, server: Any, tmp_path: Path) -> Node:
    """A node that has uv on its PATH and no index."""
    assert UV, "uv is in the dev group: scripts/install dev"
    return Node(site, server, tmp_path / "made")


def test_a_run_gets_the_packages_of_its_lock_and_the_next_one_finds_them_ready(node: Node, server: Any) -> None:
    lock = pinned(make_wheel(node.wheels, "alpha", "1.0"), make_wheel(node.wheels, "beta", "2.1"))
    code = "import alpha, beta, sys, os; print(alpha.version, beta.version, sys.prefix == os.environ['VIRTUAL_ENV'], sys.prefix)"
    node.ask(lock, code)
    node.run()
    (key,) = node.keys()
    place = node.environments / key
    log = server.log.decode()
    assert log.endswith(f"1.0 2.1 True {place}\n")
    assert f"[mainspring] Environment {key[:12]} of Python {VERSION}" in log
    assert "[mainspring] environment:  + alpha==1.0" in log or "[mainspring] environment: + alpha==1.0" in log
    (used,) = node.told("environment_used")
    assert (used["key"], used["lock"], used["size_bytes"] > 0) == (key, hashlib.sha256(lock.encode()).hexdigest(), True)
    assert [path for path in place.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o222] == []
    assert list(place.rglob("__pycache__/alpha.*.pyc"))
    node.again("third")
    node.ask(lock, code)
    node.run()
    assert server.log.decode() == f"1.0 2.1 True {place}\n"


def test_another_lock_and_another_python_are_other_environments(node: Node, server: Any) -> None:
    one, two = make_wheel(node.wheels, "alpha", "1.0"), make_wheel(node.wheels, "alpha", "1.1")
    for name, wheel in (("x", one), ("y", two)):
        node.ask(pinned(wheel), "import alpha; print(alpha.version)")
        node.run()
        node.again(name)
    assert len(node.keys()) == 2


def test_runs_that_start_together_build_it_once(node: Node, server: Any, tmp_path: Path) -> None:
    node.ask(pinned(make_wheel(node.wheels, "alpha", "1.0")), "import alpha; print(alpha.version)")
    runners = []
    root = node.site.root
    for number in range(3):
        place = root.with_name(f"beside-{number}")
        shutil.copytree(root, place)
        node.site.root = place
        runners.append(node.start())
    assert [runner.wait(60) for runner in runners] == [0, 0, 0]
    logs = [(root.with_name(f"beside-{number}") / "spool" / "log").read_text() for number in range(3)]
    assert sum("is built on this node" in log for log in logs) == 1
    assert all(log.endswith("1.0\n") for log in logs)


def test_without_uv_it_is_venv_and_pip(node: Node, server: Any) -> None:
    node.hides_uv = True
    node.ask(pinned(make_wheel(node.wheels, "alpha", "1.0")), "import alpha, sys; print(alpha.version, sys.prefix)")
    node.run()
    assert server.log.decode().endswith(f"1.0 {node.environments / node.keys()[0]}\n")
    assert node.told("environment_used")[0]["tool"] == "pip"


def test_uv_comes_as_a_wheel_to_a_node_that_has_none(node: Node, server: Any) -> None:
    wheel = make_wheel(node.wheels, "alpha", "1.0")
    own = make_wheel(node.wheels, "uv", "0.0", files={"uv-0.0.data/scripts/uv": Path(os.path.realpath(UV)).read_bytes()})
    node.hides_uv = True
    node.ask(pinned(wheel), "import alpha; print(alpha.version)", wheels={one.name: one.read_bytes() for one in (wheel, own)})
    node.run()
    assert server.log.endswith(b"1.0\n")
    assert node.told("environment_used")[0]["tool"] == "uv"
    assert os.access(node.environments / "tools" / "uv", os.X_OK)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alpha==9.9", "alpha==9.9"),
        ("alpha", "no pinned package"),
        ("-r /etc/passwd", "no pinned package"),
        ("-e .", "no pinned package"),
        ("alpha @ file:///etc", "no pinned package"),
        ("./alpha.whl", "no pinned package"),
        ("--index-url=file:///tmp", "no pinned package"),
        ("alpha==1.0 --global-option=x", "no pinned package"),
    ],
)
def test_a_lock_that_cannot_be_installed_is_the_users_error(node: Node, server: Any, line: str, said: str) -> None:
    make_wheel(node.wheels, "alpha", "1.0")
    node.ask(line + "\n", "print('ran')")
    node.run()
    assert (server.exit["cause"], said in server.exit["message"]) == ("user_error", True), server.exit
    assert b"\nran" not in server.log
    assert node.keys() == []
    assert [path for path in node.environments.iterdir() if path.is_dir() and path.name != "tools"] == []


def test_a_wheel_that_is_not_what_was_locked_is_refused(node: Node, server: Any) -> None:
    lock = pinned(make_wheel(node.wheels, "alpha", "1.0"))
    make_wheel(node.wheels, "alpha", "1.0", "changed = True")
    node.ask(lock, "print('ran')")
    node.run()
    assert (server.exit["cause"], "ran\n" in server.log.decode()) == ("user_error", False)
    assert "hash" in server.exit["message"].casefold()


def test_an_index_that_does_not_answer_is_the_nodes_fault_and_secrets_are_not_told(node: Node, server: Any) -> None:
    make_wheel(node.wheels, "alpha", "1.0")
    node.env = {"UV_INDEX_URL": "http://me:s3cret@127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    node.ask("alpha==1.0\n", "print('ran')", wheels={})
    node.run()
    assert server.exit["cause"] == "launch_failed", server.exit
    assert "index cannot be reached" in server.exit["message"]
    assert "s3cret" not in server.log.decode() + json.dumps(server.exit)


def test_a_python_that_is_not_there_is_said(node: Node, server: Any) -> None:
    node.ask("", "print('ran')", python="3.4", UV_PYTHON_DOWNLOADS="never")
    node.run()
    assert server.exit["cause"] == "user_error"
    assert "There is no Python 3.4 on this node" in server.exit["message"]


def test_a_build_that_is_killed_leaves_nothing_that_is_taken_for_whole(node: Node, server: Any) -> None:
    node.ask(pinned(make_wheel(node.wheels, "alpha", "1.0")), "import alpha; print(alpha.version)")
    os.environ["MAINSPRING_FAULT"] = "in-environment"
    try:
        assert node.start().wait(60) == -signal.SIGKILL
    finally:
        del os.environ["MAINSPRING_FAULT"]
    assert node.keys() == []
    assert [path for path in node.environments.iterdir() if len(path.name) == 32]  # the ruin
    node.run()
    assert server.log.decode().endswith("1.0\n")
    assert len(node.keys()) == 1


def test_a_stop_ends_the_build(node: Node, server: Any, tmp_path: Path, until: Callable[..., None]) -> None:
    tool = tmp_path / "bin" / "uv"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\ncase "$*" in --version) echo uv 9;; *) echo building; exec sleep 60;; esac\n')
    tool.chmod(0o755)
    node.path.insert(0, str(tool.parent))
    node.ask(pinned(make_wheel(node.wheels, "alpha", "1.0")), "print('ran')")
    server.is_followed = True
    runner = node.start()
    until(lambda: b"is built on this node" in server.log, "the build")
    server.commands = [{"no": 1, "kind": "stop", "cause": "cancelled", "deadline_s": 5.0}]
    assert runner.wait(20) == 0
    assert server.exit["cause"] == "cancelled"
    assert node.keys() == []


def test_one_that_somebody_installed_into_is_built_anew(node: Node, server: Any) -> None:
    lock = pinned(make_wheel(node.wheels, "alpha", "1.0"))
    node.ask(lock, "import alpha; print(alpha.version)")
    node.run()
    (place,) = (path for path in node.environments.iterdir() if len(path.name) == 32)
    site = next(place.glob("lib/*/site-packages"))
    site.chmod(0o755)
    (site / "intruder.py").write_text("")
    node.again("third")
    node.ask(lock, "import alpha; print(alpha.version); import intruder")
    node.run()
    assert b"ModuleNotFoundError" in server.log
    assert b"is built on this node" in server.log


def test_after_a_restart_of_the_machine_what_is_short_is_built_anew(node: Node, server: Any) -> None:
    lock = pinned(make_wheel(node.wheels, "alpha", "1.0"))
    node.ask(lock, "import alpha; print(alpha.version)")
    node.run()
    (record,) = node.environments.glob("*.json")
    told = json.loads(record.read_text())
    record.write_text(json.dumps({**told, "boot_id": "before"}))
    node.again("third")
    node.ask(lock, "import alpha; print(alpha.version)")
    node.run()
    assert server.log == b"1.0\n"  # all there: it is taken as it is
    assert json.loads(record.read_text())["boot_id"] == told["boot_id"]
    module = next((node.environments / told["key"]).glob("lib/*/site-packages/alpha.py"))
    module.chmod(0o644)
    module.write_text("")
    record.write_text(json.dumps({**told, "boot_id": "before"}))
    node.again("fourth")
    node.ask(lock, "import alpha; print(alpha.version)")
    node.run()
    assert server.log.endswith(b"1.0\n")
    assert b"is built on this node" in server.log


@pytest.fixture
def small_disk(node: Node) -> Iterator[Callable[..., int]]:
    """Environments on a disk of 24 MiB, in a namespace of its own: return what runs a program there."""
    node.environments.mkdir(parents=True)
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    words += [f'mount -t tmpfs -o size=24m none "{node.environments}" && echo ready && exec cat']
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"ready\n"

        def inside(*command: str) -> int:
            into = ["nsenter", "--target", str(holder.pid), "--user", "--mount", "--preserve-credentials"]
            path = os.pathsep.join(node.path)
            env = {**os.environ, "PATH": path, "HOME": str(node.site.root.parent)}
            return subprocess.run([*into, *command], timeout=120, check=False, env=env).returncode

        yield inside
        holder.stdin.close()


def test_a_disk_that_is_full_in_the_middle_of_a_build_is_told_and_nothing_half_built_is_used(
    node: Node, server: Any, small_disk: Callable[..., int]
) -> None:
    large = {"alpha.py": b"version = '1.0'\n", "alpha_data.bin": os.urandom(30 << 20)}
    lock = pinned(make_wheel(node.wheels, "alpha", "1.0", files=large))
    node.ask(lock, "import alpha; print(alpha.version)")
    runner = [sys.executable, "-S", "-E", str(node.site.bundle)]
    assert small_disk(*runner, str(node.site.root)) == 0
    assert (server.exit["cause"], "The disk of this node is full" in server.exit["message"]) == ("launch_failed", True), (
        server.exit
    )
    assert b"and it is tried once more" in server.log
    assert b"\n1.0\n" not in server.log
    assert (
        small_disk(
            "sh", "-c", f"cd {node.environments} && ! ls -d *.json 2>/dev/null && ! ls -d ????????????????????????????????/"
        )
        == 0
    )
    # the disk has room again: the next run builds it
    assert small_disk("mount", "-o", "remount,size=200m", str(node.environments)) == 0
    node.again("third")
    node.ask(lock, "import alpha; print(alpha.version)")
    assert small_disk(*runner, str(node.site.root)) == 0
    assert (server.exit["cause"], server.log.endswith(b"1.0\n")) == ("succeeded", True), server.exit


def kept(root: Path, letter: str, used_at: float) -> Path:
    """Make what stands for an environment of 1,000 bytes; return its lock."""
    key = letter * 32
    (root / key).mkdir(parents=True)
    (root / key / "data").write_bytes(b"x" * 1000)
    (root / f"{key}.json").write_text(json.dumps({"key": key, "size_bytes": 1000}))
    (root / f"{key}.lock").touch()
    os.utime(root / f"{key}.lock", (used_at, used_at))
    return root / f"{key}.lock"


@pytest.mark.parametrize(
    ("limit_bytes", "unwanted", "goes"),
    [(4000, "", ""), (3000, "", "b"), (2000, "", "bc"), (0, "", "bcd"), (4000, "c", "c"), (4000, "a", ""), (3000, "d", "d")],
)
def test_what_was_used_least_lately_makes_room_and_never_what_is_in_use(
    tmp_path: Path, limit_bytes: int, unwanted: str, goes: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(cache, "KEEP_FREE_BYTES", 0)
    told: list[str] = []
    there = Environments(str(tmp_path), lambda _: None, lambda kind, key: told.append(key), lambda: False)
    locks = [kept(tmp_path, letter, 1e9 + number) for number, letter in enumerate("abcd")]
    with locks[0].open() as used:
        fcntl.flock(used, fcntl.LOCK_SH)  # as the runner of a run does
        gone = there.make_room(limit_bytes, tuple(letter * 32 for letter in unwanted))
    assert sorted(gone) == [letter * 32 for letter in goes]
    assert sorted(told) == sorted(gone)
    assert sorted(path.name[0] for path in tmp_path.glob("*.json")) == [letter for letter in "abcd" if letter not in goes]


def test_of_what_never_was_in_this_cache_nothing_is_told_and_of_what_went_before_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    """A node may have several caches, as container engines keep projects apart: the key may be in another one."""
    monkeypatch.setattr(cache, "KEEP_FREE_BYTES", 0)
    told: list[str] = []
    there = Environments(str(tmp_path), lambda _: None, lambda kind, key: told.append(key), lambda: False)
    kept(tmp_path, "a", 1e9)
    here, elsewhere = "a" * 32, "b" * 32
    assert there.make_room(4000, (here, elsewhere)) == [here]
    assert told == [here]
    assert there.make_room(4000, (here, elsewhere)) == []
    assert told == [here, here], "who removed it may have ended before it could tell"


def test_the_next_run_keeps_the_limit_and_its_own_environment_whatever_the_limit(node: Node, server: Any) -> None:
    one, two = make_wheel(node.wheels, "alpha", "1.0"), make_wheel(node.wheels, "alpha", "1.1")
    node.ask(pinned(one), "import alpha; print(alpha.version)")
    node.run()
    (first,) = node.keys()
    node.again("third")
    wait = f"while os.path.exists({str(node.environments / first) + '.json'!r}): time.sleep(0.02)"
    node.ask(pinned(two), f"import alpha, os, time\n{wait}\nprint(alpha.version)")
    server.work["limits"] = {"environments_bytes": 1}
    node.run()
    assert server.log.endswith(b"1.1\n")
    (second,) = node.keys()
    assert second != first
    node.again("fourth")  # the one that removed it may have ended before it could tell
    node.ask(pinned(two), "import alpha; print(alpha.version)")
    node.run()
    assert [one["key"] for one in node.told("environment_removed")] == [first]
    assert [one["key"] for one in node.told("environment_used")] == [second]
