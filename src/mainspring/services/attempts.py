"""Attempts as the runner sees them: its work, its beats, its commands. Each write is one row of `docs/internals/protocol.md`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import math
from dataclasses import replace

from mainspring.core.actors import SYSTEM
from mainspring.core.beats import PROTOCOL, Beat, BeatAnswer, Chunk, Command, Work
from mainspring.core.errors import AuthError, GoneError, MainspringError, SpecError, StateError, VersionMismatchError
from mainspring.core.manifests import read_manifest
from mainspring.core.records import Attempt, AttemptState, Cause, Outcome, Replica, Run, RunState
from mainspring.core.silence import unreachable
from mainspring.core.specs import Value
from mainspring.plugins import reach
from mainspring.services import adoption, secrets
from mainspring.services.context import Context
from mainspring.services.runs import stop_attempt

log = logging.getLogger(__name__)
TOKENS = "attempt-tokens"
STOP_NO = 1 << 30  # a runner applies growing numbers only: a stop comes after every checkpoint that was asked for
SUPERSEDED_NO = STOP_NO + 1
GONE_BEATS = 3  # an attempt that nobody knows asks so many times more seldom than a quiet one beats
LATEST_S = 10 * 365 * 86_400.0  # no end is told later than that
MAX_CHUNK_BYTES = 4 * 1024 * 1024


def make_token(ctx: Context, attempt_id: str) -> str:
    """Return the runner's token of an attempt: derived, so that a launch repeated after a crash has the same one."""
    return hmac.new(ctx.store.key(TOKENS), attempt_id.encode(), hashlib.sha256).hexdigest()


def token_hash(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_token(ctx: Context, attempt_id: str, token: str) -> None:
    """Raise AuthError unless `token` is the attempt's own. Asks the database at most once in a process's life."""
    right = hmac.compare_digest(make_token(ctx, attempt_id).encode(), token.encode("utf-8", "replace"))
    if not right:
        raise AuthError("This is not the token of that attempt.", hint="Only the attempt's own runner may speak for it.")


def is_instant(ctx: Context) -> bool:
    """Say whether `check_token` answers without a look at the database."""
    return ctx.store.has_key(TOKENS)


def find(ctx: Context, attempt_id: str) -> Attempt:
    """Return the attempt. Raises GoneError for one that nobody here knows."""
    attempt = ctx.store.attempts.get(attempt_id)
    if attempt is None:
        raise GoneError(
            f"Nobody here knows attempt {attempt_id}.",
            hint="The database may be older than the runner: keep the spool.",
            details={"retry_after_s": math.ceil(GONE_BEATS * ctx.settings.quiet_beat_s)},
        )
    return attempt


def run_of(ctx: Context, attempt: Attempt) -> Run:
    """Return the run of an attempt. Raises GoneError."""
    run = ctx.store.runs.get(attempt.run)
    if run is None:
        raise GoneError(f"The run of attempt {attempt.id} was removed.")
    return run


def work(ctx: Context, attempt: Attempt, run: Run, replica: int) -> Work:
    """Return what the runner of `replica` is to do. Raises StateError when the attempt has ended or is being stopped.

    A runner asks before user code begins. One that asks later was started anew where nothing of its folder is left (a
    container that was removed, a disk that was set up anew): what ran there is lost, and goes on in another attempt.
    """
    if attempt.state is AttemptState.ENDED or attempt.number != run.attempt:
        raise StateError(f"Attempt {attempt.id} has ended.", hint="Do not start anything.")
    mine = _replica(attempt, replica)
    if mine.state is AttemptState.RUNNING:
        lost = Outcome(cause=attempt.stop_cause or Cause.NODE_LOST, message=f"Its folder on {mine.node} was lost.")
        finish(ctx, attempt, replica, lost, {})
        raise StateError(f"User code of attempt {attempt.id} began before its folder was lost.", hint="Do not start anything.")
    env = {**run.spec.env, **secrets.reveal(ctx, run.project, run.spec.secrets)}
    limits = {"memory_bytes": mine.granted.memory_bytes, "cpu_milli": mine.granted.cpu_milli}
    limits["checkpoint_bytes"] = ctx.settings.checkpoint_limit_bytes
    limits["blobs_bytes"] = ctx.settings.node_blobs_limit_bytes
    limits["environments_bytes"] = ctx.settings.node_environments_limit_bytes
    return Work(
        run=run.id,
        attempt=attempt.id,
        number=attempt.number,
        name=run.name,
        project=run.project,
        spec=run.spec,
        env=env,
        limits=limits,
        world_size=len(attempt.replicas),  # of an elastic gang those that found room
        checkpoint=_checkpoint(ctx, run.id, replica),
        unwanted=ctx.store.environments.unwanted(mine.node),
        claim=adoption.seal(ctx, run, attempt),
    )


def check_open(ctx: Context, attempt_id: str, replica: int) -> None:
    """Raise GoneError, SpecError or StateError unless that replica of the attempt is there and has not ended."""
    attempt = find(ctx, attempt_id)
    if attempt.state is AttemptState.ENDED or _replica(attempt, replica).ended_at is not None:
        raise StateError(f"Attempt {attempt_id} has ended.", hint="Do not start anything.")


def peers(attempt: Attempt, replica: int) -> dict[int, str]:
    """Return where each member of a gang is; empty for one that has not told yet. Raises StateError when it has ended."""
    _replica(attempt, replica)
    if attempt.state is AttemptState.ENDED:
        raise StateError(f"Attempt {attempt.id} has ended.", hint="Do not start anything.")
    return {one.index: one.address for one in attempt.replicas}


def beat(ctx: Context, attempt: Attempt, said: Beat) -> BeatAnswer:
    """Take what a runner says and answer what it should do. Idempotent: the same beat again changes nothing.

    Order: bytes first (W6), then state (W5), then the end (W7), so that an acknowledged end has all its lines stored.
    """
    if said.protocol != PROTOCOL:
        raise VersionMismatchError(f"The runner speaks protocol {said.protocol}, this server {PROTOCOL}.")
    _replica(attempt, said.replica)
    now = ctx.clock.now()
    reach("before-W6")
    chunks = [(chunk.stream, chunk.offset, _bytes(chunk)) for chunk in said.chunks]
    ack = ctx.store.attempts.append(attempt.id, said.replica, chunks, now=now)
    reach("after-W6")
    is_acknowledged = False
    run: Run | None = None
    if attempt.state is not AttemptState.ENDED:
        if said.state == "ended":
            attempt, run = _finish(ctx, attempt, said)
            is_acknowledged = True
        else:
            attempt = ctx.store.attempts.beat(attempt.id, said.replica, state=said.state, address=said.address, now=now)
    else:
        is_acknowledged = said.state == "ended"
    return BeatAnswer(
        ack=ack,
        commands=_commands(attempt, ctx, run),
        beat_in_s=ctx.settings.quiet_beat_s,
        is_followed=ctx.signals.is_followed(attempt.id),
        is_tunnel_wanted=ctx.signals.is_wanted(attempt.id, said.replica),
        is_acknowledged=is_acknowledged,
    )


def commands(ctx: Context, attempt_id: str, replica: int, after: int) -> tuple[tuple[Command, ...], bool]:
    """Return the commands numbered above `after`, and whether somebody follows the log. Raises GoneError."""
    attempt = find(ctx, attempt_id)
    _replica(attempt, replica)
    return tuple(one for one in _commands(attempt, ctx) if one.no > after), ctx.signals.is_followed(attempt_id)


def finish(
    ctx: Context, attempt: Attempt, replica: int, outcome: Outcome, outputs: dict[str, Value], *, late_s: float = 0.0
) -> tuple[Attempt, Run]:
    """Record a confirmed end (W7): the runner's word, or what the backend saw. Idempotent; frees the allocation with it.

    The first replica that ends badly takes its gang with it.
    """
    run = ctx.store.runs.get(attempt.run) if outcome.cause is Cause.LAUNCH_FAILED else None
    backoff_s = 0.0 if run is None else min(300.0, 2.0**run.losses)
    reach("before-W7")
    ended, done = ctx.store.attempts.finish(
        attempt.id, replica, outcome, outputs=outputs, now=ctx.clock.now(), backoff_s=backoff_s, late_s=late_s
    )
    reach("after-W7")
    if ended.state is not AttemptState.ENDED and outcome.cause is not Cause.SUCCEEDED and ended.stop_cause is None:
        ended = stop_attempt(ctx, SYSTEM, ended, Cause.CANCELLED, done.spec.grace_s)
    log.info("attempt ended", extra={"attempt": attempt.id, "run": attempt.run, "cause": outcome.cause, "state": done.state})
    return ended, done


def mark_unknown(ctx: Context, attempt: Attempt, replica: int, patience: float | None) -> None:
    """Record that nobody can tell how a replica is from now on, and tell why on its run; `patience` is how long that may last."""
    now = ctx.clock.now()
    silent = replace(_replica(attempt, replica), unknown_since=now)
    ctx.store.attempts.set_unknown(attempt.id, replica, now, unreachable(attempt, silent, patience))
    log.warning("replica is of unknown state", extra={"attempt": attempt.id, "replica": replica, "node": silent.node})


def give_up(ctx: Context, attempt: Attempt, replica: int, message: str) -> Attempt:
    """End a replica of which nobody has known anything for too long (P4): another attempt may follow, elsewhere.

    Nothing happens if it was heard since it was read as `attempt`. Its runner is told at its next beat that it is superseded.
    """
    outcome = Outcome(cause=attempt.stop_cause or Cause.NODE_LOST, message=message)
    ended, done = ctx.store.attempts.give_up(attempt, replica, outcome, now=ctx.clock.now())
    if ended.state is not AttemptState.ENDED and _replica(ended, replica).ended_at is not None and ended.stop_cause is None:
        ended = stop_attempt(ctx, SYSTEM, ended, Cause.CANCELLED, done.spec.grace_s)
    log.info("attempt given up", extra={"attempt": attempt.id, "run": attempt.run, "replica": replica, "state": done.state})
    return ended


def _finish(ctx: Context, attempt: Attempt, said: Beat) -> tuple[Attempt, Run]:
    if said.exit is None:
        raise SpecError("The last beat needs an exit record.", details={"path": "exit"})
    digests = [value.digest for value in said.outputs.values() if value.digest]
    missing = ctx.blobs.missing(digests)
    if missing:
        raise StateError(f"{len(missing)} outputs were not uploaded.", hint="Upload them again.", details={"missing": missing})
    outcome = said.exit
    if attempt.stop_cause is not None and outcome.cause not in (Cause.SUCCEEDED, Cause.TIMEOUT, Cause.OUT_OF_MEMORY):
        outcome = Outcome(cause=attempt.stop_cause, exit_code=outcome.exit_code, message=outcome.message)
    late_s = min(said.late_s, LATEST_S) if said.late_s > 0 else 0.0  # a runner's word: it may be anything
    return finish(ctx, attempt, said.replica, outcome, dict(said.outputs), late_s=late_s)


def _commands(attempt: Attempt, ctx: Context, run: Run | None = None) -> tuple[Command, ...]:
    if run is None and attempt.state is AttemptState.ENDED:
        run = ctx.store.runs.get(attempt.run)
    if (
        run is not None
        and attempt.state is AttemptState.ENDED
        and (run.attempt != attempt.number or run.state is not RunState.RUNNING)
    ):
        return (Command(no=SUPERSEDED_NO, kind="stop", cause=Cause.SUPERSEDED, deadline_s=run.spec.grace_s),)
    if attempt.stop_cause is not None and attempt.stop_by is not None:
        left = max(0.0, (attempt.stop_by - ctx.clock.now()).total_seconds())
        return (Command(no=STOP_NO, kind="stop", cause=attempt.stop_cause, deadline_s=left),)
    return (Command(no=attempt.checkpoint_no, kind="checkpoint"),) if attempt.checkpoint_no else ()


def _checkpoint(ctx: Context, run: str, replica: int) -> str:
    """Return the manifest of the newest checkpoint whose files are all here (a restored server may lack some)."""
    for one in ctx.store.checkpoints.newest(run, replica):
        try:
            manifest = read_manifest(ctx.blobs.get(one.manifest))
        except MainspringError:  # gone, damaged, or no manifest: the run goes on from the one before it
            log.warning("checkpoint cannot be read", extra={"run": run, "manifest": one.manifest})
            continue
        if not ctx.blobs.missing([entry.digest for entry in manifest.files]):
            return one.manifest
    return ""


def _replica(attempt: Attempt, index: int) -> Replica:
    for one in attempt.replicas:
        if one.index == index:
            return one
    raise SpecError(f"Attempt {attempt.id} has no replica {index}.", details={"path": "replica"})


def _bytes(chunk: Chunk) -> bytes:
    try:
        data = base64.b64decode(chunk.data, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise SpecError("A chunk is not base64.", details={"path": "chunks.data"}) from wrong
    if len(data) > MAX_CHUNK_BYTES or chunk.offset < 0:
        raise SpecError("A chunk is too large or lies before the start.", details={"path": "chunks"})
    return data
