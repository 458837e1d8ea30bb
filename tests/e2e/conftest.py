"""A real server in a folder of its own, attacked from outside: by the command line as people type it, and by REST."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from engines import warm
from engines.docker import IMAGE as CONTAINER
from engines.kubernetes.cluster import IMAGE as POD

from mainspring.backends.kubernetes import rights

TERMINAL = {"succeeded", "failed", "cancelled"}
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
TLS = ssl.create_default_context()  # made once: reading the system's authorities takes 50 ms, and polling calls often


def until(check: Callable[[], Any], what: str, *, timeout_s: float = 90.0) -> Any:
    """Poll until `check` gives something true and return it; fail naming `what` when the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.03)
    pytest.fail(f"{what} did not happen within {timeout_s:g} s")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Site:
    """One MAINSPRING_HOME, its server, and hands that type commands and speak REST.

    `behind` are words before those of the server: a program that starts it otherwise. One that `is_cold` starts as a Python of
    its own, for what its start itself is about.
    """

    home: Path
    process: warm.Process | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    behind: tuple[str, ...] = ()
    is_cold: bool = False

    def environ(self, **more: str) -> dict[str, str]:
        """Return a clean environment for this installation."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {**kept, "MAINSPRING_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "200", **self.env, **more}

    def start(self, *flags: str, expects: bool = True, **env: str) -> warm.Process:
        """Start the server in the foreground of a session of its own; wait until it answers (or has ended)."""
        words = ["server", "--home", str(self.home), *flags]
        environ = self.environ(**{"MAINSPRING_HAS_UI": "false", "MAINSPRING_SWEEP_GRACE_S": "1", **env})
        made: warm.Process
        with (self.home / "server.log").open("ab") as log:
            if self.behind or self.is_cold:
                command = [*self.behind, sys.executable, "-m", warm.MODULE, *words]
                made = subprocess.Popen(
                    command, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                )
            else:
                made = warm.start(words, env=environ, stdout=log, stderr=log, start_new_session=True)
        if expects:
            self.process = made
            until(lambda: made.poll() is not None or self.answers(), "the server's start")
            assert made.poll() is None, self.server_log()
        return made

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the server and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)

    def close(self) -> None:
        """End the server and whatever runs still live, by pid."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for pid in self.carriers():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def carriers(self) -> list[int]:
        """Return the living processes that have this home in their command line or environment, our own server apart.

        So is its fork server, for as long as it lives.
        """
        found = []
        server = b"0" if self.process is None else b"%d" % self.process.pid
        mine = str(self.home).encode()
        for place in Path("/proc").iterdir():
            if place.name.isdigit() and int(place.name) != os.getpid():
                try:
                    words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
                    state, parent = (place / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                except OSError:
                    continue
                if mine in words and state != b"Z" and server not in (os.fsencode(place.name), parent):
                    found.append(int(place.name))
        return found

    def server_log(self) -> str:
        """Return what the server printed."""
        return (self.home / "server.log").read_text(errors="replace")

    def answers(self) -> bool:
        """Say whether the server is ready."""
        try:
            return self.call("GET", "/status").status_code == 200
        except (OSError, ValueError, httpx2.HTTPError):
            return False

    @property
    def url(self) -> str:
        """Where the server listens."""
        return str(json.loads((self.home / "server.json").read_text())["url"])

    def call(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> httpx2.Response:
        """Call the API as the embedded user."""
        told = {"Authorization": f"Bearer {(self.home / 'token').read_text().strip()}", "Mainspring-Protocol": "1"}
        given = {**told, **(headers or {})}
        return httpx2.request(method, f"{self.url}/api/v1{path}", headers=given, timeout=60, verify=TLS, **more)

    def cli(self, *words: str, cwd: Path | None = None, timeout_s: float = 90.0, data: str = "", **env: str) -> Done:
        """Type a command and wait for its end. No traceback may reach a user, whatever happens."""
        made = warm.run(words, env=self.environ(**env), cwd=cwd or self.home, data=data.encode(), timeout=timeout_s)
        done = Done(made.returncode, made.stdout.decode(errors="replace"), made.stderr.decode(errors="replace"))
        assert "Traceback" not in done.err, done.err
        assert "should not have happened" not in done.err, done.err
        return done

    def submit(self, command: list[str], **spec: Any) -> str:
        """Submit by REST; return the run's id."""
        answer = self.call("POST", "/runs", json={"command": command, **spec})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def python(self, code: str, **spec: Any) -> str:
        """Submit a line of Python."""
        return self.submit([sys.executable, "-c", code], **spec)

    def run(self, ref: str) -> dict[str, Any]:
        """Return a run."""
        answer = self.call("GET", f"/runs/{ref}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, ref: str, *, timeout_s: float = 90.0) -> dict[str, Any]:
        """Return a run once it is done."""
        return dict(until(lambda: (run := self.run(ref))["state"] in TERMINAL and run, f"the end of {ref}", timeout_s=timeout_s))

    def running(self, ref: str, says: bytes = b"") -> None:
        """Wait until a run has said something."""
        until(
            lambda: says in self.log(ref) if says else self.attempts(ref)[-1:] and self.attempts(ref)[-1]["state"] == "running",
            ref,
        )

    def log(self, ref: str, **query: Any) -> bytes:
        """Return the log of a run, all of it."""
        found = b""
        while True:
            answer = self.call("GET", f"/runs/{ref}/logs", params={"offset": len(found), **query})
            if answer.status_code != 200 or not answer.content:
                return found
            found += answer.content

    def attempts(self, ref: str) -> list[dict[str, Any]]:
        """Return the attempts of a run."""
        found = self.call("GET", f"/runs/{ref}/attempts").json()
        return list(found["items"] if isinstance(found, dict) else found)

    def lose(self, run: str, attempt: str) -> None:
        """Remove the rows of a run while the server is down, as a restored backup would that is older than it."""
        with contextlib.closing(sqlite3.connect(self.home / "mainspring.db")) as rows, rows:
            tables = [name for (name,) in rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                columns = {one[1] for one in rows.execute(f"PRAGMA table_info({table})")}
                for column, value in (("attempt", attempt), ("run", run)):
                    if column in columns:
                        rows.execute(f"DELETE FROM {table} WHERE {column} = ?", (value,))  # noqa: S608 (names of the schema)
            rows.execute("DELETE FROM attempts WHERE id = ?", (attempt,))
            rows.execute("DELETE FROM runs WHERE id = ?", (run,))

    def folder_of(self, ref: str) -> Path:
        """Return the folder of the newest attempt's first replica."""
        return self.home / "clusters" / "local" / "attempts" / f"{self.attempts(ref)[-1]['id']}.0"


def make_site(home: Path) -> Site:
    """Return an installation that is not started."""
    home.mkdir(mode=0o700, parents=True)
    return Site(home=home)


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server that most attacks are upon. At the end its own log must tell of no traceback either."""
    made = make_site(tmp_path_factory.mktemp("e2e") / "home")
    made.start("--gpus", "2", "--cpus", "64")
    yield made
    is_alive = made.process is not None and made.process.poll() is None
    log = made.server_log()
    made.close()
    assert is_alive, f"the server died of it:\n{log[-3000:]}"
    assert "Traceback" not in log, log[-5000:]


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """The shared server; what a test that failed left running there would hold up the next one."""
    yield shared_site
    if shared_site.process is None or shared_site.process.poll() is not None:
        return  # told at the end of the session
    for one in shared_site.call("GET", "/runs", params={"state": ["queued", "running"]}).json()["items"]:
        shared_site.call("POST", f"/runs/{one['id']}/cancel", json={"grace_s": 0})
        shared_site.wait(one["id"])


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    """An installation of its own that is not started yet."""
    made = make_site(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture(scope="module")
def of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installation for all tests of a module that is not started yet."""
    made = make_site(tmp_path_factory.mktemp("module") / "home")
    yield made
    made.close()


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    """`until(check, what)` polls."""
    return until


ROLE = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
def team(kubernetes: Any) -> Iterator[str]:
    """A name space in which the user `team` has the Role that Mainspring prints, and no other right."""
    name = f"engines-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    kubernetes.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    kubernetes.ask("POST", f"{ROLE}/namespaces/{name}/roles", yaml.safe_load(rights.role(name)))
    binding = {
        "metadata": {"name": "mainspring"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mainspring"},
        "subjects": [{"kind": "User", "name": "team", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    kubernetes.ask("POST", f"{ROLE}/namespaces/{name}/rolebindings", binding)
    yield name
    kubernetes.empty(name)
    kubernetes.ask("DELETE", f"/api/v1/namespaces/{name}")


ALL = ("box", "metal", "hpc", "pods")


@pytest.fixture
def begin_fleet(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Start a server that drives the named engines; with pods its address is the one that they reach."""

    def begin(site: Site, *names: str, **settings: str) -> None:
        env = request.getfixturevalue("slurm").env if "hpc" in names else {}
        bind = ["--bind", request.getfixturevalue("kubernetes").address] if "pods" in names else []
        site.start("--cpus", "1", *bind, **{"MAINSPRING_QUIET_BEAT_S": "1", **env, **settings})

    return begin


@pytest.fixture
def add_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Return a function that adds the cluster box, metal, hpc or pods as people type it; more words go behind."""

    def words(name: str, hosts: slice, partition: str) -> list[str]:
        match name:
            case "box":
                url = request.getfixturevalue("docker_engine").url
                return ["docker", "--host", url, "--image", CONTAINER, "--cpus", "1", "--memory", "1GiB"]
            case "metal":
                lab = request.getfixturevalue("ssh_hosts")
                chosen = sorted(lab.addresses)[hosts]
                keys = ",".join(lab.fingerprint(one) for one in chosen)
                rest = ["--user", "root", "--key", lab.key, "--host-key", keys, "--min-free-gib", "0.01"]
                return ["ssh", *(lab.addresses[one] for one in chosen), *rest]
            case "hpc":
                shared = Path(request.getfixturevalue("slurm").folder) / "shared" / tmp_path.name
                return ["slurm", "local", "--partition", partition, "--folder", str(shared)]
            case _:
                space = request.getfixturevalue("team")
                config = tmp_path / "kubeconfig"
                config.write_text(Path(request.getfixturevalue("kubernetes").kubeconfig("team", space)).read_text())
                return ["kubernetes", "--kubeconfig", str(config), "--image", POD, "--cpus", "1", "--memory", "1"]

    def add(site: Site, name: str, *more: str, hosts: slice = slice(2, 3), partition: str = "short") -> None:
        added = site.cli("cluster", "add", *words(name, hosts, partition), "--name", name, *more)
        assert added.code == 0, added

    return add


@pytest.fixture
def fleet(fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None]) -> Site:
    """A server with five clusters."""
    begin_fleet(fresh, *ALL)
    for name in ALL:
        add_engine(fresh, name)
    return fresh
