"""Clients in trouble: a reader that leaves, Ctrl-C, a server that goes away, a home that is not one, lying blobs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
CLI = [sys.executable, "-m", "mainspring.cli.main"]


def test_ctrl_c_leaves_the_run_running(site: Site, tmp_path: Path, until: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    words = [*CLI, "run", "--name", "left", "--grace", "0s", "--", "sh", "-c", "echo up; sleep 600"]
    with out.open("wb") as told:
        follower = subprocess.Popen(words, env=site.environ(), stdout=told, stderr=told, cwd=tmp_path)
        until(lambda: b"up" in out.read_bytes(), "the first line")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
    text = out.read_text()
    assert "Traceback" not in text
    assert "mainspring logs -f" in text
    assert site.run("left")["state"] == "running"
    assert site.cli("cancel", "left").code == 0
    assert site.wait("left")["state"] == "cancelled"


def test_a_reader_that_leaves_is_no_error(site: Site) -> None:
    ref = site.python("for n in range(50_000): print('line', n)")
    site.wait(ref)
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m mainspring.cli.main logs {ref} | head -n 1', sys.executable],
        env=site.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("line 0\n", "")


def test_a_follower_outlives_a_restart_of_the_server(fresh: Site, tmp_path: Path, until: Callable[..., Any]) -> None:
    fresh.start("--cpus", "4")
    go, out, err = tmp_path / "go", tmp_path / "out", tmp_path / "err"
    code = (
        f"import os, time\nprint('before', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint('after')"
    )
    ref = fresh.python(code)
    with out.open("wb") as told, err.open("wb") as noted:
        follower = subprocess.Popen([*CLI, "logs", "-f", ref], env=fresh.environ(), stdout=told, stderr=noted, cwd=tmp_path)
        until(lambda: b"before" in out.read_bytes(), "the first line")
        fresh.stop(signal.SIGKILL)
        fresh.start("--cpus", "4")
        go.touch()
        assert follower.wait(90) == 0, err.read_text()
    assert out.read_text() == "before\nafter\n", "a line was lost or doubled"
    assert "Traceback" not in err.read_text()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": "x"}', '{"url": 1, "pid": 1}', '{"url": "http://127.0.0.1:1", "pid": 999999999}']
)
def test_a_strange_server_json_is_no_server(fresh: Site, text: str) -> None:
    (fresh.home / "server.json").write_text(text)
    done = fresh.cli("status", "--json")
    assert done.code == 7
    assert json.loads(done.out)["is_up"] is False


def test_a_home_that_is_a_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        done = site.cli("run", "--", "true", cwd=tmp_path, MAINSPRING_HOME=str(home))
        assert done.code == 2, done
        assert str(home) in done.err
        assert "hint: " in done.err


def test_settings_that_make_no_sense_are_named(fresh: Site) -> None:
    (fresh.home / "config.toml").write_text("port = 'many'\n")
    done = fresh.cli("server")
    assert done.code == 2
    assert "port" in done.err
    (fresh.home / "config.toml").write_text("no_such_setting = 1\n")
    done = fresh.cli("server")
    assert done.code == 2
    assert "no_such_setting" in done.err
    (fresh.home / "config.toml").write_text("][\n")
    done = fresh.cli("server")
    assert done.code == 2
    assert "config.toml" in done.err


def test_a_digest_that_lies_stores_nothing(site: Site) -> None:
    digest = hashlib.sha256(b"what was promised").hexdigest()
    answer = site.call("PUT", f"/blobs/{digest}", content=b"what came")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "integrity"
    assert site.call("GET", f"/blobs/{digest}").status_code == 404


def test_an_upload_that_breaks_off_stores_nothing(site: Site, until: Callable[..., Any]) -> None:
    data = os.urandom(100_000)
    digest = hashlib.sha256(data).hexdigest()
    place = urlsplit(site.url)
    token = (site.home / "token").read_text().strip()
    with socket.create_connection((place.hostname or "", place.port or 0)) as wire:
        head = f"PUT /api/v1/blobs/{digest} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {token}\r\n"
        wire.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:50_000])
    assert site.call("POST", "/blobs/missing", json={"digests": [digest]}).json() == {"missing": [digest]}
    assert site.call("PUT", f"/blobs/{digest}", content=data).status_code == 201


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "a/../../evil", "a\\b", "a\u0000b", ""])
def test_a_bundle_that_leads_outside_is_refused(site: Site, tmp_path: Path, path: str) -> None:
    file = hashlib.sha256(b"evil").hexdigest()
    site.call("PUT", f"/blobs/{file}", content=b"evil")
    manifest = json.dumps({"files": [{"digest": file, "mode": 0o644, "path": path, "size": 4}]}).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    assert site.call("PUT", f"/blobs/{digest}", content=manifest).is_success
    answer = site.call("POST", "/datasets/evil/versions", json={"manifest": digest})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "archive"
    answer = site.call("POST", "/runs", json={"command": ["ls"], "code": {"manifest": digest}})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "archive"
    assert not list(site.home.rglob("evil"))
    assert not (Path("/tmp") / "evil").exists()


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"code": {"manifest": "0" * 64}}, 404),
        ({"code": {"manifest": "../../etc/passwd"}}, 400),
        ({"args": {"x": {"kind": "pickle", "digest": "1" * 64}}}, 404),
        ({"kind": "task", "entry": {"pickled": "2" * 64}}, 404),
    ],
)
def test_a_spec_that_names_what_was_never_sent_is_refused(site: Site, spec: dict[str, Any], status: int) -> None:
    answer = site.call("POST", "/runs", json={"command": ["ls"], **spec})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["hint"]


def test_files_of_every_kind_travel(site: Site, tmp_path: Path) -> None:
    (tmp_path / "sub dir").mkdir()
    (tmp_path / "sub dir" / "ünï.txt").write_text("here")
    (tmp_path / "link.txt").symlink_to(tmp_path / "sub dir" / "ünï.txt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".env").write_text("PASSWORD=1")
    (tmp_path / "go.py").write_text(
        "import pathlib\nprint(sorted(str(p) for p in pathlib.Path('.').rglob('*')))\n"
        "print(pathlib.Path('sub dir/ünï.txt').read_text())\n"
    )
    done = site.cli("run", "go.py", cwd=tmp_path)
    assert done.code == 0, done
    assert "here" in done.out
    assert ".env" not in done.out, "secrets stay at home"
    assert "pipe" not in done.out
    (tmp_path / "dangling").symlink_to("/nowhere/at/all")
    done = site.cli("run", "go.py", cwd=tmp_path)
    assert done.code == 1
    assert "dangling" in done.err
    assert "hint: " in done.err
