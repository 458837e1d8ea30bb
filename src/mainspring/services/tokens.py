"""API tokens and browser sessions: random, shown once, stored as a hash; who comes with one is an Actor.

Three kinds that cannot stand in for each other: `ms_` for programs (bearer), `msl_` for a one-time login link (60 s), `msb_`
for the browser's cookie that it is exchanged for. All are rows, so that all can be listed, revoked and audited.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta

from mainspring.core.actors import Actor
from mainspring.core.errors import AuthError, NotFoundError, TokenExpiredError, UsageError
from mainspring.core.ids import check_name
from mainspring.core.records import Token
from mainspring.core.units import MAX_SECONDS
from mainspring.services.context import Context
from mainspring.services.runs import said

API, LINK, BROWSER = "ms_", "msl_", "msb_"
LINK_S = 60.0
SESSION_S = 7 * 86400.0
TOUCH_S = 60.0
CACHE_S = 3.0
CACHE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class _Seen:
    actor: Actor
    until: float  # monotonic


class _Cache:
    """Remember who came with which token for a few seconds, so that a request costs no query."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()
        self._era = 0

    def get(self, key: tuple[str, str], now: float) -> Actor | None:
        with self._lock:
            found = self._seen.get(key)
            return found.actor if found is not None and now < found.until else None

    def era(self) -> int:
        with self._lock:
            return self._era

    def put(self, key: tuple[str, str], seen: _Seen, era: int) -> None:
        """Keep `seen`, unless rights were changed since `era` was read."""
        with self._lock:
            if era != self._era:
                return
            self._seen[key] = seen
            self._seen.move_to_end(key)
            while len(self._seen) > CACHE_SIZE:
                self._seen.popitem(last=False)

    def clear(self, installation: str) -> None:
        with self._lock:
            self._era += 1
            for key in [key for key in self._seen if key[0] == installation]:
                del self._seen[key]


_CACHE = _Cache()


def issue(ctx: Context, actor: Actor, user: str, name: str, expires_in_s: float | None = None) -> tuple[str, Token]:
    """Make a token for `user`; return its plain text, which is stored nowhere, and the record.

    For oneself, or by an administrator. Raises UsageError for an expiry that is not in the future.
    """
    if actor.name != user:
        actor.need_admin()
    if ctx.store.users.get(user) is None:
        raise NotFoundError(f"There is no user {user[:60]!r}.", hint="mainspring user ls")
    check_name(name, "token")
    return _make(ctx, actor, user, name, API, expires_in_s)


def authenticate(ctx: Context, plain: str, *, kind: str = API) -> Actor:
    """Return who comes with this token. Raises AuthError when nobody knows it, TokenExpiredError when it was right once.

    Costs no query when it was seen in the last 3 seconds; changes made in this process hold at once.
    """
    cached = peek(ctx, plain, kind=kind)
    if cached is not None:
        return cached
    era = _CACHE.era()
    token = _known(ctx, plain, kind)
    user = ctx.store.users.get(token.user)
    if user is None or user.disabled_at is not None:
        raise AuthError(f"User {token.user!r} is disabled.", hint="Ask an administrator.")
    now = ctx.clock.now()
    if token.used_at is None or (now - token.used_at).total_seconds() >= TOUCH_S:
        ctx.store.tokens.touch(token.id, now)
    actor = Actor(name=user.name, is_admin=user.is_admin, roles=ctx.store.projects.roles_of(user.name))
    left = CACHE_S if token.expires_at is None else min(CACHE_S, (token.expires_at - now).total_seconds())
    _CACHE.put(_key(ctx, plain), _Seen(actor, ctx.clock.monotonic() + left), era)
    return actor


def peek(ctx: Context, plain: str, *, kind: str = API) -> Actor | None:
    """Return who comes with this token if it was seen just now; never touches the store, so an event loop may call it."""
    return _CACHE.get(_key(ctx, plain), ctx.clock.monotonic()) if plain.startswith(kind) else None


def forget(ctx: Context) -> None:
    """Ask the store again at each token's next use: rights were changed. Open pages are drawn anew."""
    _CACHE.clear(ctx.store.installation)
    ctx.signals.hint("rights")


def all(ctx: Context, actor: Actor, *, user: str = "") -> list[Token]:
    """Return the tokens of `user`, or one's own, without their hashes. `*` (administrators): everybody's."""
    wanted = user or actor.name
    if wanted != actor.name:
        actor.need_admin()
    found = ctx.store.tokens.all("" if wanted == "*" else wanted)
    return sorted((replace(token, hash="") for token in found), key=lambda token: token.id)


def revoke(ctx: Context, actor: Actor, token_id: str) -> None:
    """End a token at once: one's own, or anybody's by an administrator. Raises NotFoundError."""
    for token in ctx.store.tokens.all("" if actor.is_admin else actor.name):
        if token.id == token_id:
            event = said(actor, "token.revoked", token.id, "", user=token.user, name=token.name)
            ctx.store.tokens.revoke(token.id, now=ctx.clock.now(), event=event)
            forget(ctx)
            return
    raise NotFoundError(f"There is no token {token_id[:60]!r}.", hint="mainspring token ls")


def issue_link(ctx: Context, actor: Actor) -> str:
    """Return the plain text of a login link for the actor's own browser: good once, for 60 seconds."""
    plain, _ = _make(ctx, actor, actor.name, "login-link", LINK, LINK_S)
    return plain


def open_session(ctx: Context, link: str) -> str:
    """Exchange a login link for the plain text of a browser session (7 days). Raises AuthError, TokenExpiredError."""
    token = _known(ctx, link, LINK)
    actor = Actor(name=token.user)
    if not ctx.store.tokens.revoke(token.id, now=ctx.clock.now(), event=said(actor, "session.opened", token.id, "")):
        raise TokenExpiredError("The login link was used already.", hint="mainspring ui")  # two tabs at once: one gets in
    plain, _ = _make(ctx, actor, token.user, "browser", BROWSER, SESSION_S)
    return plain


def close_session(ctx: Context, plain: str) -> None:
    """End a browser session; silent when there is none."""
    token = ctx.store.tokens.by_hash(_hash(plain))
    if token is not None and plain.startswith(BROWSER):
        event = said(Actor(name=token.user), "session.closed", token.id, "")
        ctx.store.tokens.revoke(token.id, now=ctx.clock.now(), event=event)
        forget(ctx)


def _make(ctx: Context, actor: Actor, user: str, name: str, kind: str, expires_in_s: float | None) -> tuple[str, Token]:
    if expires_in_s is not None and not 0 < expires_in_s <= MAX_SECONDS:
        raise UsageError(f"A token cannot expire in {expires_in_s} s.", hint="Leave it out for a token that does not expire.")
    plain = kind + secrets.token_urlsafe(32)
    now = ctx.clock.now()
    token = Token(
        id=ctx.ids.new("token"),
        user=user,
        name=name,
        hash=_hash(plain),
        created_at=now,
        expires_at=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
    )
    ctx.store.tokens.add(token, event=said(actor, "token.issued", token.id, "", user=user, name=name))
    return plain, replace(token, hash="")


def _known(ctx: Context, plain: str, kind: str) -> Token:
    token = ctx.store.tokens.by_hash(_hash(plain)) if plain.startswith(kind) else None
    if token is None:
        raise AuthError("Nobody knows this token.", hint="mainspring login URL, or mainspring token add NAME")
    now = ctx.clock.now()
    if token.revoked_at is not None or (token.expires_at is not None and now >= token.expires_at):
        done = "was revoked or used" if token.revoked_at is not None else "has expired"
        raise TokenExpiredError(f"Token {token.name!r} {done}.", hint="Make a new one: mainspring token add NAME")
    return token


def _key(ctx: Context, plain: str) -> tuple[str, str]:
    return ctx.store.installation, _hash(plain)


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode("utf-8", "replace")).hexdigest()
