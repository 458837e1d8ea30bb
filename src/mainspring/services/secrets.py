"""Secrets of a project, and secret options of clusters: stored encrypted (AES-256-GCM), revealed to runs alone.

The key lies in `HOME/keys/secrets.key` (0600), apart from the database: a copy of the database tells nothing.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mainspring.core.actors import Actor
from mainspring.core.errors import MainspringError, StoreError, TooLargeError, UsageError
from mainspring.core.records import Role, Secret
from mainspring.core.specs import RunSpec, overrides_of
from mainspring.services.context import Context
from mainspring.services.overrides import MARK, need_secrets, secret_names, unknown_secret
from mainspring.services.runs import check_project, said

MAX_VALUE_BYTES = 64 * 1024
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")
_FORMAT = b"\x01"
_NONCE_BYTES = 12
SEALED = "sealed"
HIDDEN = "(secret)"


def put(ctx: Context, actor: Actor, name: str, value: str, *, project: str = "default") -> Secret:
    """Keep `value` under `name`, in place of what was there. It becomes an environment variable of runs that name it."""
    check_project(ctx, project)
    actor.need(project, Role.OWNER)
    if _NAME.match(name) is None:
        raise UsageError(f"{name[:60]!r} cannot name a secret.", hint="Use letters, digits and '_', not starting with a digit.")
    plain = value.encode("utf-8", "surrogatepass")
    if len(plain) > MAX_VALUE_BYTES:
        raise TooLargeError(f"The secret has {len(plain):,} bytes; the limit is {MAX_VALUE_BYTES:,}.")
    if not plain or b"\x00" in plain:
        raise UsageError("A secret cannot be empty or hold NUL characters.", hint="It becomes an environment variable.")
    ciphertext = _encrypt(ctx, plain, _place(project, name))
    secret = Secret(project=project, name=name, created_by=actor.name, created_at=ctx.clock.now())
    ctx.store.secrets.put(secret, ciphertext, event=said(actor, "secret.put", name, project))
    return secret


def get(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> Secret:
    """Return who made the secret and when, never its value. Raises NotFoundError."""
    for secret in all(ctx, actor, project=project):
        if secret.name == name:
            return secret
    raise unknown_secret(name, project)


def all(ctx: Context, actor: Actor, *, project: str = "default") -> list[Secret]:
    """Return the secrets of the project, by name, never their values. Editors see the names too: their runs use them."""
    check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    return sorted(ctx.store.secrets.all(project), key=lambda secret: secret.name)


def remove(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> None:
    """Forget the secret. Raises NotFoundError."""
    check_project(ctx, project)
    actor.need(project, Role.OWNER)
    need_secrets(ctx, project, [name])
    ctx.store.secrets.remove(project, name, event=said(actor, "secret.removed", name, project))


def reveal(ctx: Context, project: str, names: Sequence[str]) -> dict[str, str]:
    """Return the values for a run's environment. For `attempts.work` alone: no route hands them to people.

    Raises NotFoundError for a secret that was removed since, StoreError when the key is not the one it was encrypted with.
    """
    revealed: dict[str, str] = {}
    for name in names:
        sealed = ctx.store.secrets.get_ciphertext(project, name)
        if sealed is None:
            raise unknown_secret(name, project)
        revealed[name] = _decrypt(ctx, sealed, _place(project, name), name).decode("utf-8", "surrogatepass")
    return revealed


def reveal_overrides(ctx: Context, spec: RunSpec, kind: str) -> Mapping[str, object]:
    """Return what a run asks of an engine kind, with the values of its secrets: for launching alone.

    A secret that was removed since stays a name, which the engine refuses.
    """
    words = dict(overrides_of(spec, kind))
    for name in secret_names(kind):
        wanted = str(words.get(name, ""))
        if wanted.startswith(MARK):
            try:
                words[name] = reveal(ctx, spec.project, [wanted.removeprefix(MARK)])[wanted.removeprefix(MARK)]
            except MainspringError:
                continue
    return words


def seal(ctx: Context, cluster: str, name: str, value: str) -> dict[str, object]:
    """Return what is kept of a cluster's secret option in its config."""
    sealed = _encrypt(ctx, value.encode("utf-8", "surrogatepass"), _option(cluster, name))
    return {SEALED: base64.b64encode(sealed).decode()}


def unseal(ctx: Context, cluster: str, config: Mapping[str, object]) -> dict[str, object]:
    """Return the config of a cluster with its secrets in the clear, for its backend alone. Raises StoreError."""
    plain = dict(config)
    for name, value in config.items():
        if isinstance(value, Mapping) and SEALED in value:
            sealed = base64.b64decode(str(value[SEALED]))
            plain[name] = _decrypt(ctx, sealed, _option(cluster, name), name).decode("utf-8", "surrogatepass")
    return plain


def hide(config: Mapping[str, object]) -> dict[str, object]:
    """Return the config as anybody may see it."""
    return {name: HIDDEN if isinstance(value, Mapping) and SEALED in value else value for name, value in config.items()}


def _encrypt(ctx: Context, plain: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return _FORMAT + nonce + AESGCM(_key(ctx)).encrypt(nonce, plain, place)


def _decrypt(ctx: Context, sealed: bytes, place: bytes, name: str) -> bytes:
    nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return AESGCM(_key(ctx)).decrypt(nonce, body, place)
    except (InvalidTag, ValueError) as wrong:
        raise StoreError(
            f"Secret {name!r} cannot be decrypted.", hint="Bring back HOME/keys/secrets.key, or set the secret again."
        ) from wrong


def _key(ctx: Context) -> bytes:
    path = ctx.settings.home / "keys" / "secrets.key"
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) != 32:
        raise StoreError("The key of the secrets is damaged.", hint="Bring back HOME/keys/secrets.key from a copy.")
    return key


def _make_key(path: Path) -> None:
    """Write a fresh key; of several threads or processes at once the first wins, and nobody ever reads half a key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(AESGCM.generate_key(256))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
    finally:
        fresh.unlink(missing_ok=True)


def _place(project: str, name: str) -> bytes:
    """Bind a ciphertext to its row, so that it cannot be moved to another one."""
    return f"{project}/{name}".encode()


def _option(cluster: str, name: str) -> bytes:
    return f"cluster:{cluster}/{name}".encode()
