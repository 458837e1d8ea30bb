"""Who may knock: tokens, cookies, Host, Origin, protocol versions; nothing answers an unknown caller."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from mainspring.core.actors import SYSTEM
from mainspring.core.records import Role
from mainspring.services import tokens, users

OPEN = {"/healthz", "/login/{link}"}


def addresses(world):
    for route in world.app.routes:
        if isinstance(route, Route | APIRoute) and route.path not in OPEN:
            for method in sorted(route.methods or ()):
                yield method, re.sub(r"\{[^}]+\}", "x", route.path)


def test_every_route_refuses_a_caller_without_a_token(world):
    client = world.client("")
    found = list(addresses(world))
    assert len(found) > 70
    for method, path in found:
        answer = client.request(method, f"http://127.0.0.1:8765{path}")
        assert answer.status_code == 401, (method, path, answer.text)
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "auth"


@pytest.mark.parametrize("token", ["ms_unknown", "nonsense", "ms_" + "x" * 43, "msl_x", "msb_x"])
def test_an_unknown_token_is_401_everywhere(world, token):
    client = world.client(token)
    for method, path in addresses(world):
        answer = client.request(method, f"http://127.0.0.1:8765{path}")
        assert answer.status_code == 401, (method, path, answer.status_code, answer.text)


def test_health_is_open(world):
    assert world.client("").get("http://127.0.0.1/healthz").json() == {"ok": True}


def test_an_expired_token_says_so(world):
    token = world.token("bob", Role.VIEWER, expires_in_s=60)
    assert world.client(token).get("/whoami").json()["name"] == "bob"
    world.clock.move(61)
    answer = world.client(token).get("/whoami")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token_expired")


def test_a_token_close_to_its_end_is_not_kept_beyond_it(world):
    token = world.token("bob", Role.VIEWER, expires_in_s=60)
    world.clock.move(59)
    assert world.client(token).get("/whoami").status_code == 200
    world.clock.move(1.5)
    assert world.client(token).get("/whoami").status_code == 401


def test_a_revoked_token_and_a_disabled_user_are_out_at_once(world):
    bob, eve = world.token("bob", Role.VIEWER), world.token("eve", Role.VIEWER)
    assert world.client(bob).get("/whoami").status_code == world.client(eve).get("/whoami").status_code == 200
    (record,) = world.client(bob).get("/tokens").json()["items"]
    assert world.client(bob).delete(f"/tokens/{record['id']}").status_code == 204
    assert world.client(bob).get("/whoami").json()["error"]["code"] == "token_expired"
    assert world.client().patch("/users/eve", json={"is_disabled": True}).status_code == 200
    assert world.client(eve).get("/whoami").status_code == 401
    assert world.client().patch("/users/eve", json={"is_disabled": False}).status_code == 200
    assert world.client(eve).get("/whoami").status_code == 200


def test_rights_change_with_the_next_request(world):
    bob = world.token("bob")
    run = world.submit()
    assert world.client(bob).get(f"/runs/{run['id']}").status_code == 404
    assert world.client().put("/projects/default/members/bob", json={"role": "viewer"}).status_code == 200
    assert world.client(bob).get(f"/runs/{run['id']}").status_code == 200
    denied = world.client(bob).post(f"/runs/{run['id']}/cancel")
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "access_denied")
    assert world.client(bob).delete("/projects/default/members/bob").status_code == 200
    assert world.client(bob).get(f"/runs/{run['id']}").status_code == 404


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LOCALHOST:8765", "[::1]:8765", "lab.example", "127.9.9.9"])
def test_our_own_names_are_answered_for(world, host):
    assert world.client(Host=host).get("/whoami").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "lab.example.evil", "", "[::2]", "10.0.0.1"])
def test_other_names_are_not(world, host):
    """DNS rebinding: a page of evil.example whose name resolves to 127.0.0.1."""
    answer = world.client(Host=host).get("/whoami")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "access_denied")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1:8765.evil.example"])
def test_another_page_may_not_call(world, origin):
    assert world.client(Origin=origin).get("/whoami").status_code == 403
    assert world.client(Origin=origin).post("/runs", json={"command": ["true"]}).status_code == 403


@pytest.mark.parametrize(("said", "status"), [("1", 200), ("1.7", 200), ("2", 426), ("0", 426), ("nonsense", 426), ("", 426)])
def test_another_protocol_is_refused_with_a_hint(world, said, status):
    answer = world.client(**{"Mainspring-Protocol": said}).get("/whoami")
    assert answer.status_code == status
    if status == 426:
        error = answer.json()["error"]
        assert error["code"] == "version_mismatch"
        assert ("Update the server" in error["hint"]) == (said == "2")


def open_browser(world):
    url = world.client().post("/login-link").json()["url"]
    browser = world.client("")
    answer = browser.get(url.replace("http://127.0.0.1:8765/api/v1", "http://127.0.0.1:8765"))
    return url, browser, answer


def test_a_login_link_opens_a_session_once(world):
    url, browser, answer = open_browser(world)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert browser.get("/whoami").json()["name"] == "ada"
    again = world.client("").get(url)
    assert (again.status_code, again.json()["error"]["code"]) == (401, "token_expired")


def test_a_login_link_is_good_for_a_minute(world):
    url = world.client().post("/login-link").json()["url"]
    world.clock.move(61)
    assert world.client("").get(url).status_code == 401


def test_kinds_of_tokens_cannot_stand_in_for_each_other(world):
    url, browser, _ = open_browser(world)
    (session,) = browser.cookies.values()
    assert world.client(session).get("/whoami").status_code == 401
    assert world.client(url.rpartition("/")[2]).get("/whoami").status_code == 401
    name = next(iter(browser.cookies))
    assert world.client("", Cookie=f"{name}={world.admin}").get("/whoami").status_code == 401


def test_a_cookie_alone_changes_nothing(world):
    _, browser, _ = open_browser(world)
    assert browser.post("/runs", json={"command": ["true"]}).status_code == 403
    assert browser.post("/runs", json={"command": ["true"]}, headers={"Origin": "http://evil.example"}).status_code == 403
    assert browser.post("/runs", json={"command": ["true"]}, headers={"Origin": "http://127.0.0.1:8765"}).status_code == 201


def test_logout_ends_the_session(world):
    _, browser, _ = open_browser(world)
    name, session = next(iter(browser.cookies.items()))
    gone = browser.post("http://127.0.0.1:8765/logout", headers={"Origin": "http://127.0.0.1:8765"})
    assert gone.status_code == 303
    assert world.client("", Cookie=f"{name}={session}").get("/whoami").status_code == 401


def test_a_page_without_a_session_tells_how_to_get_one(world):
    answer = world.client("").get("http://127.0.0.1:8765/", headers={"Accept": "text/html"})
    assert answer.status_code == 401
    assert "mainspring ui" in answer.text


def test_a_failure_is_a_plain_500_with_a_request_id(world, caplog):
    @world.app.get("/api/v1/broken")
    def broken() -> None:
        raise RuntimeError("secret detail")

    answer = world.client().get("/broken")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["code"] == "server"
    assert error["details"]["request"] in error["hint"]
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    assert any(getattr(record, "request", "") == error["details"]["request"] for record in caplog.records)


def test_a_token_is_touched_at_most_once_a_minute(world):
    bob = world.token("bob", Role.VIEWER)
    client = world.client(bob)
    assert client.get("/tokens").json()["items"][0]["used_at"] is not None
    first = world.clock.now()
    world.clock.move(30)
    client.get("/whoami")
    world.clock.move(10)
    (seen,) = client.get("/tokens").json()["items"]
    assert seen["used_at"].startswith(first.isoformat()[:19])
    world.clock.move(60)
    (seen,) = client.get("/tokens").json()["items"]
    assert seen["used_at"].startswith((first + timedelta(seconds=100)).isoformat()[:19])


def test_users_of_two_installations_share_no_cache(world):
    assert tokens.peek(world.ctx, world.admin) is None
    assert tokens.authenticate(world.ctx, world.admin).name == "ada"
    assert tokens.peek(world.ctx, world.admin) is not None
    users.edit(world.ctx, SYSTEM, "ada", is_admin=True)
    tokens.forget(world.ctx)
    assert tokens.peek(world.ctx, world.admin) is None
