"""Who may come in: tokens, hosts, login links, and where the embedded token lies."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e


def test_the_embedded_token_is_for_its_owner_alone(site: Site) -> None:
    assert stat.S_IMODE((site.home / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(site.home.stat().st_mode) == 0o700
    assert stat.S_IMODE((site.home / "mainspring.db").stat().st_mode) & 0o077 == 0
    token = (site.home / "token").read_text().strip().encode()
    for path in site.home.rglob("*"):
        if path.is_file() and path.name != "token":
            assert token not in path.read_bytes(), f"the token lies in {path}"


@pytest.mark.parametrize(
    "path", ["/status", "/runs", "/clusters", "/secrets/X", "/events", "/blobs/" + "0" * 64, "/no-such-route"]
)
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ms_wrong", "Basic dXNlcjpwYXNz", "Bearer \xff"])
def test_nothing_is_told_without_a_token(site: Site, path: str, header: str | None) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header is not None else {}
    answer = httpx2.get(f"{site.url}/api/v1{path}", headers=headers)
    assert answer.status_code == 401, answer.text
    assert answer.json()["error"]["code"] == "auth"


def test_a_wrong_token_ends_a_command_with_three(site: Site) -> None:
    done = site.cli("ps", MAINSPRING_URL=site.url, MAINSPRING_TOKEN="ms_wrong")
    assert done.code == 3
    assert "hint: " in done.err


def test_an_expired_a_revoked_and_a_viewers_token(site: Site, until, tmp_path: Path) -> None:
    eve = f"eve-{tmp_path.name[-1]}"
    assert site.cli("user", "add", eve).code == 0
    assert site.cli("project", "grant", "default", eve, "viewer").code == 0
    short = site.call("POST", "/tokens", json={"name": "short", "user": eve, "expires_in_s": 1}).json()["token"]
    made = site.call("POST", "/tokens", json={"name": "viewer", "user": eve}).json()
    env = {"MAINSPRING_URL": site.url, "MAINSPRING_TOKEN": made["token"]}
    assert site.cli("ps", **env).code == 0
    done = site.cli("run", "-d", "--", "true", **env)
    assert (done.code, "error: " in done.err) == (3, True)
    assert site.cli("user", "ls", **env).code == 3
    assert site.call("DELETE", f"/tokens/{made['record']['id']}").status_code in (200, 204)
    assert site.cli("ps", **env).code == 3
    headers = {"Authorization": f"Bearer {short}"}
    answer = until(
        lambda: (got := httpx2.get(f"{site.url}/api/v1/status", headers=headers)).status_code == 401 and got, "the token's end"
    )
    assert answer.json()["error"]["code"] == "token_expired"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "169.254.169.254"])
def test_another_host_name_is_refused(site: Site, host: str) -> None:
    answer = site.call("GET", "/status", headers={"Host": host})
    assert answer.status_code in (400, 403, 421), answer.text
    assert "url" not in answer.text


def test_another_origin_is_refused(site: Site) -> None:
    answer = site.call("POST", "/runs", json={"command": ["true"]}, headers={"Origin": "https://evil.example"})
    assert answer.status_code in (400, 403), answer.text


def test_a_client_of_another_protocol_is_told_so(site: Site) -> None:
    for version in ("0", "2", "99"):
        answer = site.call("GET", "/status", headers={"Mainspring-Protocol": version})
        assert answer.status_code == 426, answer.text
        assert answer.json()["error"]["code"] == "version_mismatch"
        assert answer.json()["error"]["hint"]
