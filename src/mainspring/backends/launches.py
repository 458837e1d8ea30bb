"""What every engine gives a runner and reads back from its folder: `launch.json`, the zip, `exit.json`. It names no engine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from mainspring.core.backend import ExitRecord, LaunchRequest
from mainspring.core.records import Cause, Outcome
from mainspring.runner.bundle import build_bundle


def launch_record(request: LaunchRequest, cache_dir: str, env: Mapping[str, str], **more: object) -> dict[str, object]:
    """Return what `launch.json` holds. The token is a file of its own beside it."""
    return {
        "installation": request.installation,
        "attempt": request.attempt,
        "run": request.run,
        "replica": request.replica,
        "server_url": request.server_url,
        "server_fingerprint": request.server_fingerprint,
        "grace_s": request.grace_s,
        "cache_dir": cache_dir,
        "env": dict(env),
        **more,
    }


def json_object(data: bytes | str | None) -> dict[str, object]:
    """Return the JSON object in what a file of a runner's folder holds, or its container's last word; empty where none is whole.

    User code may have written there, brackets alone too.
    """
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def exit_record(told: object) -> ExitRecord | None:
    """Return what a runner wrote into `exit.json`; None when there is no outcome in it: user code may have written there too."""
    outcome = told.get("outcome") if isinstance(told, Mapping) else None
    if not isinstance(outcome, dict) or not isinstance(told, Mapping) or str(outcome.get("cause")) not in set(Cause):
        return None
    code = outcome.get("exit_code")
    outputs = told.get("outputs")
    return ExitRecord(
        outcome=Outcome(
            cause=Cause(str(outcome.get("cause"))),
            exit_code=code if isinstance(code, int) and abs(code) < 1 << 31 else None,
            message=str(outcome.get("message", "")).encode(errors="replace").decode(),
        ),
        outputs=outputs if isinstance(outputs, dict) else {},
        is_final=bool(told.get("is_final")),
    )


def runner_zip(folder: Path) -> Path:
    """Return the runner's zip in `folder`, built if it is not there.

    Its name has its digest and no other is ever put in its place: a runner of an older version reads its own to its end.
    """
    fresh = build_bundle(folder / f".runner-{os.getpid()}-{threading.get_ident()}.zip")
    data = fresh.read_bytes()
    target = folder / f"runner-{hashlib.sha256(data).hexdigest()[:16]}.zip"
    with contextlib.suppress(OSError):
        if target.read_bytes() == data:  # a power cut may have left it short
            fresh.unlink()
            return target
    fresh.replace(target)
    return target
