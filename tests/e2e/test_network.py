"""A server that listens beyond loopback: TLS with a certificate of its own, known by its fingerprint; and what is refused."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from mainspring.runner.wire import AwayError, Wire

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
ADDRESS = "127.0.0.77"  # not what the server counts as loopback, and reached by nobody else


def told(site: Site) -> dict[str, str]:
    return dict(json.loads((site.home / "server.json").read_text()))


def wire(site: Site, folder: Path, fingerprint: str) -> Wire:
    launch = folder / "launch.json"
    launch.write_text(json.dumps({"server_url": told(site)["network_url"], "server_fingerprint": fingerprint}))
    return Wire("http://127.0.0.1:1", "t" * 64, str(launch))


@pytest.fixture
def wide(fresh: Site) -> Iterator[Site]:
    fresh.start("--bind", ADDRESS, "--cpus", "2")
    return fresh


def test_a_runner_speaks_to_the_server_of_that_fingerprint_alone(wide: Site, tmp_path: Path) -> None:
    announced = told(wide)
    parts = urlsplit(announced["network_url"])
    assert (parts.scheme, parts.hostname) == ("https", ADDRESS)
    shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((ADDRESS, parts.port or 0)))
    assert announced["fingerprint"] == hashlib.sha256(shown).hexdigest()
    with pytest.raises(AwayError, match="401"):  # it was heard, and is nobody's runner
        wire(wide, tmp_path, announced["fingerprint"]).ask("GET", "/attempts/att-1/work")
    with pytest.raises(AwayError, match="certificate is not the one"):
        wire(wide, tmp_path, "0" * 64).ask("GET", "/attempts/att-1/work")
    with pytest.raises(AwayError, match="CERTIFICATE_VERIFY_FAILED"):
        wire(wide, tmp_path, "").ask("GET", "/attempts/att-1/work")


def test_this_machine_stays_on_loopback_and_the_certificate_is_kept(wide: Site) -> None:
    before = told(wide)
    assert before["url"].startswith("http://127.0.0.1:")
    run = wide.wait(wide.submit(["true"]))
    assert run["state"] == "succeeded", wide.log(run["id"])
    assert (wide.home / "keys" / "server.key").stat().st_mode & 0o077 == 0
    wide.stop()
    wide.start("--bind", ADDRESS)
    assert told(wide) | {"pid": 0, "start_time": 0} == before | {"pid": 0, "start_time": 0}


def test_people_elsewhere_log_in_by_the_fingerprint(wide: Site, tmp_path: Path) -> None:
    announced = told(wide)
    token = json.loads(wide.cli("token", "add", "laptop", "--json").out)["token"]
    elsewhere = {"MAINSPRING_HOME": str(tmp_path / "laptop")}
    url = announced["network_url"]
    refused = wide.cli("login", url, "--token", token, "--fingerprint", "0" * 64, **elsewhere)
    assert refused.code != 0
    assert "fingerprint" in refused.err
    unsaid = wide.cli("login", url, "--token", token, **elsewhere)
    assert unsaid.code != 0
    assert announced["fingerprint"] in unsaid.err
    assert wide.cli("login", url, "--token", token, "--fingerprint", announced["fingerprint"], **elsewhere).code == 0
    listed = wide.cli("cluster", "ls", "--json", **elsewhere)
    assert listed.code == 0, listed
    assert json.loads(listed.out)[0]["cluster"]["name"] == "local"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--bind", "0.0.0.0"), "--advertise"),  # noqa: S104 (refused)
        (("--bind", ADDRESS, "--advertise", "http://lab:1"), "insecure-http"),
        (("--bind", "203.0.113.9"), "is no address of this machine"),
    ],
)
def test_what_is_not_enough_is_refused_at_once(fresh: Site, flags: tuple[str, ...], says: str) -> None:
    process: subprocess.Popen[bytes] = fresh.start(*flags, expects=False)
    assert process.wait(20) != 0
    assert says in fresh.server_log()


def test_without_tls_only_when_it_is_said(fresh: Site, tmp_path: Path) -> None:
    fresh.start("--bind", ADDRESS, "--insecure-http")
    announced = told(fresh)
    assert announced["network_url"].startswith(f"http://{ADDRESS}:")
    assert announced["fingerprint"] == ""
    with pytest.raises(AwayError, match="401"):
        wire(fresh, tmp_path, "").ask("GET", "/attempts/att-1/work")
