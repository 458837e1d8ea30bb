"""Users, projects, tokens and secrets over a real store: who may do what, and what is written about it."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mainspring.blobs.store import BlobStore
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import (
    AccessDeniedError,
    AuthError,
    ConflictError,
    NotFoundError,
    StateError,
    StoreError,
    TokenExpiredError,
    TooLargeError,
    UsageError,
)
from mainspring.core.ids import make_id
from mainspring.core.records import Role
from mainspring.services import projects, secrets, tokens, users
from mainspring.services.context import Context
from mainspring.services.signals import Signals
from mainspring.settings import Settings
from mainspring.store.store import Store


@dataclass
class Clock:
    at: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=self.at)

    def monotonic(self) -> float:
        return self.at


class Ids:
    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self, kind: str) -> str:
        return make_id(kind, 1_700_000_000_000, next(self._numbers))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ctx(tmp_path: Path, clock: Clock, new_database: Callable[[Path], str]) -> Iterator[Context]:
    ids = Ids()
    store = Store.open(new_database(tmp_path / "m.db"), clock=clock, ids=ids)
    blobs = BlobStore.open(str(tmp_path / "blobs"), folder=tmp_path / "blobs")
    yield Context(
        store=store,
        blobs=blobs,
        clock=clock,
        ids=ids,
        signals=Signals(),
        settings=Settings(home=tmp_path),
        started_at=clock.now(),
    )
    store.close()


def actor(ctx: Context, name: str) -> Actor:
    """Return `name` as a token would bring it."""
    users.ensure(ctx, name)
    return tokens.authenticate(ctx, tokens.issue(ctx, SYSTEM, name, "test")[0])


def kinds(ctx: Context) -> list[str]:
    return [event.kind for event in ctx.store.events.since(0)]


def test_only_administrators_manage_users(ctx):
    users.add(ctx, SYSTEM, "ada", is_admin=True)
    ada, bob = actor(ctx, "ada"), actor(ctx, "bob")
    with pytest.raises(AccessDeniedError):
        users.add(ctx, bob, "eve")
    with pytest.raises(AccessDeniedError):
        users.get(ctx, bob, "ada")
    assert users.get(ctx, bob, "bob").name == "bob"
    with pytest.raises(ConflictError):
        users.add(ctx, ada, "bob")
    with pytest.raises(ConflictError):
        users.add(ctx, ada, "system")
    with pytest.raises(NotFoundError):
        users.edit(ctx, ada, "nobody", is_admin=True)


def test_the_last_administrator_stays(ctx):
    users.add(ctx, SYSTEM, "ada", is_admin=True)
    ada = actor(ctx, "ada")
    with pytest.raises(StateError):
        users.edit(ctx, ada, "ada", is_admin=False)
    with pytest.raises(StateError):
        users.edit(ctx, ada, "ada", is_disabled=True)
    users.add(ctx, ada, "bob", is_admin=True)
    assert users.edit(ctx, ada, "ada", is_admin=False).is_admin is False


def test_who_adds_a_project_owns_it_and_the_last_owner_stays(ctx):
    projects.add(ctx, actor(ctx, "bob"), "lab")
    bob = actor(ctx, "bob")
    assert projects.members(ctx, bob, "lab") == {"bob": Role.OWNER}
    with pytest.raises(StateError):
        projects.grant(ctx, bob, "lab", "bob", Role.VIEWER)
    with pytest.raises(StateError):
        projects.revoke(ctx, bob, "lab", "bob")
    eve = actor(ctx, "eve")
    with pytest.raises(AccessDeniedError):
        projects.members(ctx, eve, "lab")
    with pytest.raises(NotFoundError, match="nobody"):
        projects.grant(ctx, bob, "lab", "nobody", Role.VIEWER)
    projects.grant(ctx, bob, "lab", "eve", Role.EDITOR)
    eve = tokens.authenticate(ctx, tokens.issue(ctx, SYSTEM, "eve", "again")[0])
    with pytest.raises(AccessDeniedError):
        projects.grant(ctx, eve, "lab", "eve", Role.OWNER)
    assert projects.revoke(ctx, eve, "lab", "eve") == {"bob": Role.OWNER}
    with pytest.raises(NotFoundError, match="known: lab"):
        projects.members(ctx, SYSTEM, "nope")


def test_a_token_is_stored_as_a_hash_alone(ctx, tmp_path):
    users.add(ctx, SYSTEM, "bob")
    plain, record = tokens.issue(ctx, SYSTEM, "bob", "laptop")
    assert plain.startswith("ms_")
    assert len(plain) == 46
    assert record.hash == ""
    ctx.store.events.last_seq()
    assert all(plain[3:].encode() not in file.read_bytes() for file in tmp_path.glob("m.db*"))
    assert tokens.authenticate(ctx, plain).name == "bob"
    for wrong in ("", "ms_", plain[:-1], plain + "x", plain[3:], "msb_" + plain[3:], "\ud800"):
        with pytest.raises(AuthError):
            tokens.authenticate(ctx, wrong)


def test_tokens_are_ones_own(ctx):
    users.add(ctx, SYSTEM, "ada", is_admin=True)
    ada, bob, eve = actor(ctx, "ada"), actor(ctx, "bob"), actor(ctx, "eve")
    _, record = tokens.issue(ctx, bob, "bob", "mine")
    with pytest.raises(AccessDeniedError):
        tokens.issue(ctx, eve, "bob", "forged")
    with pytest.raises(AccessDeniedError):
        tokens.all(ctx, eve, user="bob")
    with pytest.raises(NotFoundError):
        tokens.revoke(ctx, eve, record.id)
    assert {token.user for token in tokens.all(ctx, ada, user="*")} == {"ada", "bob", "eve"}
    tokens.revoke(ctx, ada, record.id)


def test_a_login_link_is_used_once(ctx, clock):
    bob = actor(ctx, "bob")
    link = tokens.issue_link(ctx, bob)
    session = tokens.open_session(ctx, link)
    assert tokens.authenticate(ctx, session, kind=tokens.BROWSER).name == "bob"
    with pytest.raises(TokenExpiredError):
        tokens.open_session(ctx, link)
    with pytest.raises(AuthError):
        tokens.authenticate(ctx, session)
    clock.at += tokens.SESSION_S + 1
    with pytest.raises(TokenExpiredError):
        tokens.authenticate(ctx, session, kind=tokens.BROWSER)


def test_a_change_is_not_hidden_by_what_another_thread_was_about_to_remember(ctx):
    """Rights read before a change and remembered after it must not be used."""
    era = tokens._CACHE.era()
    tokens.forget(ctx)
    key = (ctx.store.installation, "x")
    tokens._CACHE.put(key, tokens._Seen(Actor(name="old"), 1e9), era)
    assert tokens._CACHE.get(key, 0.0) is None


def test_secrets_are_kept_encrypted_and_revealed_to_runs(ctx, tmp_path):
    projects.add(ctx, SYSTEM, "lab")
    secrets.put(ctx, SYSTEM, "API_KEY", "tres-secret-value", project="lab")
    assert secrets.reveal(ctx, "lab", ["API_KEY"]) == {"API_KEY": "tres-secret-value"}
    key = tmp_path / "keys" / "secrets.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert all(b"tres-secret-value" not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert "tres-secret-value" not in str(ctx.store.events.since(0))
    first = ctx.store.secrets.get_ciphertext("lab", "API_KEY")
    secrets.put(ctx, SYSTEM, "API_KEY", "tres-secret-value", project="lab")
    assert ctx.store.secrets.get_ciphertext("lab", "API_KEY") != first
    secrets.remove(ctx, SYSTEM, "API_KEY", project="lab")
    with pytest.raises(NotFoundError):
        secrets.reveal(ctx, "lab", ["API_KEY"])
    with pytest.raises(NotFoundError):
        secrets.remove(ctx, SYSTEM, "API_KEY", project="lab")


def test_a_ciphertext_cannot_be_moved_and_a_wrong_key_says_so(ctx, tmp_path):
    projects.add(ctx, SYSTEM, "lab")
    one = secrets.put(ctx, SYSTEM, "ONE", "1", project="lab")
    two = secrets.put(ctx, SYSTEM, "TWO", "2", project="lab")
    assert (one.name, two.name) == ("ONE", "TWO")
    ctx.store.secrets.put(two, ctx.store.secrets.get_ciphertext("lab", "ONE"))
    with pytest.raises(StoreError):
        secrets.reveal(ctx, "lab", ["TWO"])
    (tmp_path / "keys" / "secrets.key").write_bytes(b"x" * 32)
    with pytest.raises(StoreError, match="ONE"):
        secrets.reveal(ctx, "lab", ["ONE"])
    (tmp_path / "keys" / "secrets.key").write_bytes(b"short")
    with pytest.raises(StoreError, match="damaged"):
        secrets.reveal(ctx, "lab", ["ONE"])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("../x", "v", UsageError),
        ("1A", "v", UsageError),
        ("A-B", "v", UsageError),
        ("A", "", UsageError),
        ("A", "a\0", UsageError),
    ],
)
def test_strange_secrets_are_refused(ctx, name, value, error):
    projects.add(ctx, SYSTEM, "lab")
    with pytest.raises(error):
        secrets.put(ctx, SYSTEM, name, value, project="lab")
    with pytest.raises(TooLargeError):
        secrets.put(ctx, SYSTEM, "A", "x" * 70_000, project="lab")


def test_secrets_are_the_owners_business(ctx):
    projects.add(ctx, SYSTEM, "lab")
    users.add(ctx, SYSTEM, "eve")
    projects.grant(ctx, SYSTEM, "lab", "eve", Role.EDITOR)
    secrets.put(ctx, SYSTEM, "A", "v", project="lab")
    eve = actor(ctx, "eve")
    assert [one.name for one in secrets.all(ctx, eve, project="lab")] == ["A"]
    with pytest.raises(AccessDeniedError):
        secrets.put(ctx, eve, "A", "w", project="lab")
    with pytest.raises(AccessDeniedError):
        secrets.remove(ctx, eve, "A", project="lab")


def test_everything_is_in_the_audit_trail(ctx):
    users.add(ctx, SYSTEM, "bob")
    projects.add(ctx, actor(ctx, "bob"), "lab")
    bob = actor(ctx, "bob")
    secrets.put(ctx, bob, "A", "v", project="lab")
    secrets.remove(ctx, bob, "A", project="lab")
    projects.grant(ctx, SYSTEM, "lab", "bob", Role.OWNER)
    _, token = tokens.issue(ctx, bob, "bob", "t")
    tokens.revoke(ctx, bob, token.id)
    users.edit(ctx, SYSTEM, "bob", is_disabled=True)
    wanted = {
        "user.added",
        "project.added",
        "project.granted",
        "secret.put",
        "secret.removed",
        "token.issued",
        "token.revoked",
        "user.edited",
    }
    assert wanted <= set(kinds(ctx))
