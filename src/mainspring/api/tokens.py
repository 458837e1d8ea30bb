"""Routes of tokens, and the way of a browser from a one-time link to a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mainspring.api.answers import PREFIX, answer, answer_all, answer_nothing, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.api.door import cookie_name, is_loopback, read_cookie
from mainspring.core.records import Token
from mainspring.services import tokens

router = APIRouter(prefix=PREFIX, tags=["people"])
browser = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token to issue; `user` empty for oneself, `expires_in_s` None for no end."""

    name: str
    user: str = ""
    expires_in_s: float | None = None


@router.get("/tokens")
@shaped(gives=Token, is_page=True)
def all_tokens(ctx: Ctx, actor: Who, user: Annotated[str, Query(max_length=128)] = "") -> Response:
    """Return one's own tokens; administrators may name a user, or `*`."""
    return answer_all(tokens.all(ctx, actor, user=user))


@router.post("/tokens", status_code=201)
@shaped(takes=NewToken, status=201)
def issue(ctx: Ctx, actor: Who, body: Annotated[NewToken, Depends(body_of(NewToken))]) -> Response:
    """Issue a token; its text is in this answer and nowhere else."""
    plain, record = tokens.issue(ctx, actor, body.user or actor.name, body.name, body.expires_in_s)
    return answer({"token": plain, "record": record}, status=201)


@router.delete("/tokens/{token_id}", status_code=204)
@shaped(status=204)
def revoke(ctx: Ctx, actor: Who, token_id: str) -> Response:
    """End a token at once."""
    tokens.revoke(ctx, actor, token_id)
    return answer_nothing()


@router.post("/login-link")
@shaped()
def make_link(request: Request, ctx: Ctx, actor: Who) -> Response:
    """Return a link that lets one's browser in: once, within 60 seconds."""
    return answer({"url": f"{_base(request)}/login/{tokens.issue_link(ctx, actor)}"})


@browser.get("/login/{link}")
def enter(request: Request, ctx: Ctx, link: str) -> Response:
    """Exchange the link for a cookie and go on to the page."""
    session = tokens.open_session(ctx, link)
    response = RedirectResponse("/", status_code=303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    response.set_cookie(
        cookie_name(ctx),
        session,
        max_age=int(tokens.SESSION_S),
        httponly=True,
        samesite="strict",
        secure=_base(request).startswith("https:"),
    )
    return response


@browser.post("/logout")
def leave(request: Request, ctx: Ctx) -> Response:
    """End the browser's session."""
    tokens.close_session(ctx, read_cookie(request.headers.get("cookie", ""), cookie_name(ctx)))
    response = RedirectResponse("/", status_code=303)
    response.delete_cookie(cookie_name(ctx), httponly=True, samesite="strict")
    return response


def _base(request: Request) -> str:
    """Return where the browser reaches the server: on this machine as it was asked, elsewhere as is advertised."""
    asked = str(request.base_url)
    told = str(request.app.state.url)
    return (asked if not told or is_loopback(request.base_url.hostname or "") else told).rstrip("/")
