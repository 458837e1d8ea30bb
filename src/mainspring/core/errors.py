"""Every error that a user can meet, as one tree; each says what happened, why, and what to do next.

MainspringError(code, message, hint, details)
├── UsageError 400, exit 2
│   └── SpecError                         a spec has a wrong field
├── AuthError 401 ─ TokenExpiredError
├── AccessDeniedError 403
├── NotFoundError 404
├── ConflictError 409 ─ StaleWriteError, StateError
├── GoneError 410                         the server no longer waits for this attempt
├── TooLargeError 413
├── QuotaError 422 ─ CannotFitError
├── RunError exit 1 ─ RunFailedError, RunCancelledError
├── ArtifactError ─ IntegrityError, ArchiveError
├── BackendError ─ CapacityError, LaunchError, UnreachableError, CredentialsError, ClusterRefusedError
├── UnsupportedError 501                  named, but not part of this version
└── ServerError 500 ─ ServerUnreachableError, VersionMismatchError, StoreError, DiskFullError, PlannerError

The client maps `code` back to the class, so that `except ms.NotFoundError` works on both sides of the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class MainspringError(Exception):
    """Root of the tree.

    `message` says what happened and why, in a sentence; `hint` what to do next (may be empty);
    `details` are machine-readable facts (JSON values only, never secrets).
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, object] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def to_wire(self) -> dict[str, object]:
        """Return the JSON body of an error answer: `{"error": {code, message, hint, details}}`."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}}


class UsageError(MainspringError):
    """The request itself is wrong: a bad flag, a malformed value."""

    code = "usage"
    http_status = 400
    exit_code = 2


class SpecError(UsageError):
    """A field of a spec is wrong; `details["path"]` names it."""

    code = "spec"


class AuthError(MainspringError):
    """No token, or one that nobody knows."""

    code = "auth"
    http_status = 401
    exit_code = 3


class TokenExpiredError(AuthError):
    """The token was right once, and has expired or was revoked."""

    code = "token_expired"


class AccessDeniedError(MainspringError):
    """The actor is known and has no right to do this."""

    code = "access_denied"
    http_status = 403
    exit_code = 3


class NotFoundError(MainspringError):
    """Nothing of that name or id is visible to the actor."""

    code = "not_found"
    http_status = 404
    exit_code = 4


class ConflictError(MainspringError):
    """The request contradicts what is there."""

    code = "conflict"
    http_status = 409
    exit_code = 5


class StaleWriteError(ConflictError):
    """Somebody wrote first; read again and repeat."""

    code = "stale_write"


class StateError(ConflictError):
    """The record's state does not allow this."""

    code = "state"


class GoneError(MainspringError):
    """The server has no such attempt any more; the runner keeps its spool (`protocol.md`, last row)."""

    code = "gone"
    http_status = 410


class TooLargeError(MainspringError):
    """A body, a field or a blob is over its limit."""

    code = "too_large"
    http_status = 413
    exit_code = 2


class QuotaError(MainspringError):
    """The share's limit or the budget is used up."""

    code = "quota"
    http_status = 422
    exit_code = 6


class CannotFitError(QuotaError):
    """No node of any registered cluster could ever hold this request; the hint says what would fit."""

    code = "cannot_fit"


class RunError(MainspringError):
    """A run did not give a result."""

    code = "run"
    http_status = 409


class RunFailedError(RunError):
    """The run ended badly; `details` has `run`, `cause`, `exit_code` and `log_tail`."""

    code = "run_failed"


class RunCancelledError(RunError):
    """The run was cancelled."""

    code = "run_cancelled"


class ArtifactError(MainspringError):
    """A file, a result or a data set cannot be read or written."""

    code = "artifact"
    http_status = 400


class IntegrityError(ArtifactError):
    """Bytes do not match their digest; `details` has `expected` and `actual`."""

    code = "integrity"


class ArchiveError(ArtifactError):
    """A manifest or an archive holds a path that leads outside, a link, or another hostile entry."""

    code = "archive"


class BackendError(MainspringError):
    """A backend could not do what it was asked."""

    code = "backend"
    http_status = 502


class CapacityError(BackendError):
    """The place is taken: plan again."""

    code = "capacity"


class LaunchError(BackendError):
    """The attempt cannot be started there: it fails with cause `launch_failed`."""

    code = "launch"


class ClusterRefusedError(BackendError):
    """The engine answers and cannot be used as it is; `details` has `version`, `facts` and `notices` of the look at it."""

    code = "cluster_refused"
    http_status = 422
    exit_code = 6


class UnreachableError(BackendError):
    """The engine did not answer: try later, conclude nothing."""

    code = "unreachable"


class CredentialsError(BackendError):
    """The engine refuses our credentials: an operator must act."""

    code = "credentials"


class UnsupportedError(MainspringError):
    """Named in the interface, and not part of this version."""

    code = "unsupported"
    http_status = 501


class ServerError(MainspringError):
    """The server failed; the log has the story under `details["request"]`."""

    code = "server"


class ServerUnreachableError(ServerError):
    """Nobody answers at the server's address (raised by the client)."""

    code = "server_unreachable"
    http_status = 503
    exit_code = 7


class VersionMismatchError(ServerError):
    """Client and server speak different protocol versions."""

    code = "version_mismatch"
    http_status = 426
    exit_code = 7


class StoreError(ServerError):
    """The database is damaged, newer than this program, or owned by another process."""

    code = "store"
    http_status = 503


class DiskFullError(StoreError):
    """No space is left where state is kept; nothing was accepted."""

    code = "disk_full"
    http_status = 507


class PlannerError(ServerError):
    """The planner was given a snapshot that contradicts itself."""

    code = "planner"


def _walk(cls: type[MainspringError]) -> dict[str, type[MainspringError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found.update(_walk(child))
    return found


BY_CODE: Mapping[str, type[MainspringError]] = _walk(MainspringError)


def from_wire(body: Mapping[str, object]) -> MainspringError:
    """Return the error that `to_wire` described; an unknown code gives a `ServerError` with the same text."""
    inner = body.get("error")
    if not isinstance(inner, Mapping):
        return ServerError("The server answered with something that is not an error message.")
    details = inner.get("details")
    cls = BY_CODE.get(str(inner.get("code")), ServerError)
    return cls(
        str(inner.get("message", "")),
        hint=str(inner.get("hint", "")),
        details=details if isinstance(details, Mapping) else None,
    )
