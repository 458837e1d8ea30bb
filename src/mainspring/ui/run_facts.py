"""What stands below a run's log and charts: parameters, results and files, attempts as a timeline, code, environment, lineage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.manifests import read_manifest
from mainspring.core.records import Attempt, Cause, Role, Run, RunState
from mainspring.core.specs import Value, ValueKind
from mainspring.core.units import counted, show_bytes, show_seconds
from mainspring.core.whys import Change
from mainspring.services import caching, environments, lineage, logs, metrics, runs
from mainspring.ui import graph, parts
from mainspring.ui.run_log import plain
from mainspring.ui.view import View

MAX_FILES = 200
MAX_SHOWN = 300
LAST_BYTES = 2000
FOLDERS = (ValueKind.DATASET, ValueKind.MODEL)


def top(view: View, ref: str) -> str:
    """Return name, state and the one sentence."""
    one = runs.get(view.ctx, view.actor, ref)
    told = runs.why(view.ctx, view.actor, ref)
    changes = told["changes"] if isinstance(told["changes"], list) else []
    owner = parts.link(one.owner, view.url("/runs", owner=one.owner))
    link = one.spec.link
    part_of = ""
    if link is not None and link.kind == "sweep":
        part_of = f" · trial {parts.text(link.key)} of {parts.link('a sweep', view.url(f'/sweeps/{link.id}'))}"
    if link is not None and link.kind == "pipeline_run":
        part_of = f" · step {parts.text(link.key)} of {parts.link('a pipeline', view.url(f'/pipelines/{link.id}'))}"
    return (
        f'<h2 class="ms-title">{parts.text(one.name)} {parts.state(one.state.value)}</h2>'
        f'<p class="ms-sentence">{parts.words(_sentence(view, one, told))}</p>{_changes(view, changes)}'
        f'<div class="ms-soft">{owner} · submitted {parts.moment(one.created_at)}'
        f"{_took_words(one)} · {parts.short_id(one.id, 40)}{part_of} {parts.tags(one.tags)}</div>"
    )


def _sentence(view: View, one: Run, told: dict[str, object]) -> str:
    ahead = told.get("ahead_count")
    sentence = str(told["sentence"])
    if one.state is RunState.FAILED:
        end = logs.read(view.ctx, view.actor, one.id, offset=-LAST_BYTES, limit=LAST_BYTES).data.decode("utf-8", "replace")
        last = next((line for line in reversed(plain(end).splitlines()) if line.strip()), "")
        sentence += f" Its log ends with: {last.strip()[:MAX_SHOWN]}" if last else " It printed nothing."
    if one.state is RunState.SUCCEEDED and one.started_at and one.ended_at:
        figures = ", ".join(f"{name} {value:.5g}" for name, value in list(one.metrics.items())[:3])
        took = show_seconds((one.ended_at - one.started_at).total_seconds())
        sentence = f"It succeeded after {took}{': ' + figures if figures else ''}."
    if isinstance(ahead, int) and ahead:
        sentence += f" {ahead} {'run stands' if ahead == 1 else 'runs stand'} before it."
    return sentence


def _changes(view: View, found: Sequence[Change]) -> str:
    """Return what would let a waiting run start; the run that it would have to wait for is a link."""
    told = []
    for one in found:
        words = parts.words(f"It {one.sentence}." if one.at is None else f"It would start {one.sentence}.")
        run = str(one.facts.get("run", ""))
        if run:
            words = words.replace(run, parts.link(runs.get(view.ctx, view.actor, run).name, view.url(f"/runs/{run}")))
        told.append(words)
    return f'<p class="ms-soft">What would change it: {" ".join(told)}</p>' if told else ""


def _took_words(one: Run) -> str:
    if one.started_at is None:
        return ""
    return f" · {'took' if one.ended_at else 'for'} {parts.duration(one)}"


def parameters(view: View, ref: str) -> str:
    """Return the parameters as names and values."""
    found = metrics.params(view.ctx, view.actor, ref)
    if not found:
        return parts.note("None.")
    return parts.pairs([(name, parts.figure(value)) for name, value in sorted(found.items())])


def latest(view: View, ref: str) -> str:
    """Return last, smallest and largest value of each metric: the charts' twin."""
    found = metrics.summary(view.ctx, view.actor, ref)
    return parts.table(
        ("Metric", "Last", "Smallest", "Largest", "Points", "Step"),
        [
            (
                parts.text(name),
                *(parts.figure(one[key]) if one[key] is not None else "" for key in ("last", "min", "max", "count", "step")),
            )
            for name, one in found.items()
        ],
        empty="No metric.",
        label="Metrics",
        numeric=("Last", "Smallest", "Largest", "Points", "Step"),
    )


def outputs(view: View, ref: str) -> str:
    """Return what the run gave back, with the files that may be taken."""
    one = runs.get(view.ctx, view.actor, ref)
    rows = []
    for name, value in one.outputs.items():
        rows.append((parts.text(name), parts.text(value.kind.value), _size(value), _content(value)))
        rows += _files(view, value)
    empty = "It gave nothing back." if one.state in TERMINAL_RUN else "Nothing yet."
    return parts.table(("Name", "Kind", "Size", "Content"), rows, empty=empty, label="Results", numeric=("Size",))


def attempts(view: View, ref: str) -> str:
    """Return each try as a bar of waiting, starting and running, then where it was and how it ended."""
    tries = runs.attempts(view.ctx, view.actor, ref)
    if not tries:
        return parts.note("Not placed yet.")
    now = view.ctx.clock.now()
    longest = max((_end(one, now) - one.created_at).total_seconds() for one in tries) or 1.0
    out = []
    for one in tries:
        where = ", ".join(sorted({replica.node.partition(".")[2] or replica.node for replica in one.replicas}))
        gpus = sorted({share.index for replica in one.replicas for share in replica.granted.devices})
        held = f", GPU {', '.join(str(index) for index in gpus)}" if gpus else ""
        how = ""
        if one.outcome is not None:
            code = f" (exit {one.outcome.exit_code})" if one.outcome.exit_code else ""
            how = (
                ""
                if one.outcome.cause is Cause.SUCCEEDED
                else f"{one.outcome.cause.value.replace('_', ' ')}{code}. {one.outcome.message}"
            )
        out.append(
            f"<div>Try {one.number} {parts.state(_word(one))}</div>"
            f'<div><div class="ms-track">{_bars(one, now, longest)}</div>'
            f'<span class="ms-soft">{parts.text(where)}{held}. {parts.text(_phases(one))} {parts.text(how)}</span></div>'
        )
    return f'<div class="ms-time">{"".join(out)}</div>'


def code(view: View, ref: str) -> str:
    """Return the command, the commit and the resources."""
    one = runs.get(view.ctx, view.actor, ref)
    cache = str(caching.tell(view.ctx, one).get("sentence", ""))
    spec = one.spec
    what = " ".join(spec.command) if spec.command else f"{spec.entry.module}:{spec.entry.function}" if spec.entry else ""
    commit = f"{spec.code.git_commit[:12]}{' with changes' if spec.code.is_dirty else ''}" if spec.code.git_commit else "no git"
    told = [
        ("Command", f"<code>{parts.text(what[:MAX_SHOWN])}</code>"),
        ("Asks for", parts.text(spec.resources.show())),
        ("Commit", parts.text(f"{commit} {spec.code.git_branch}")),
        ("Code", parts.short_id(spec.code.manifest, 16) or "none"),
        ("Interpreter", parts.text(spec.environment.interpreter or "as it is")),
        ("Cache", parts.text(cache or "not used")),
        ("Again on error", parts.text(spec.retries)),
        ("At most", show_seconds(spec.timeout_s) if spec.timeout_s else "no limit"),
    ]
    return parts.pairs(told)


def inside(view: View, ref: str) -> str:
    """Return what to type for a shell or a port inside the run, while it runs."""
    one = runs.get(view.ctx, view.actor, ref)
    if one.state in TERMINAL_RUN:
        return parts.note("It has ended.")
    if not view.actor.may(one.project, Role.EDITOR):
        return parts.note("Whoever may cancel this run may go inside.")
    if one.state is not RunState.RUNNING:
        return parts.note("Once it runs, a shell and its ports can be reached from your machine.")
    told = [("A shell", parts.command(f"mainspring shell {one.id}")), ("A port", parts.command(f"mainspring port {one.id} 6006"))]
    return parts.pairs(told) + parts.note(
        "6006 is TensorBoard, 8888 Jupyter. The command prints where on your machine the port is."
    )


def environment(view: View, ref: str) -> str:
    """Return what the run ran with: Python, lock, and the packages that were seen, folded away."""
    found = environments.of_run(view.ctx, view.actor, ref)
    seen = found.captured
    if seen is None and not found.has_lock:
        return parts.note("Not seen. A run of Python tells its packages once it runs.")
    told = [
        ("Python", parts.text(f"{seen.implementation} {seen.python} on {seen.platform}" if seen else found.python or "not seen")),
        ("Lock", parts.short_id(found.digest, 12) if found.has_lock else "none: as it was there"),
    ]
    if found.left_out:
        told.append(("In no index", parts.text(", ".join(found.left_out))))
    again = f"<code>mainspring run --environment from:{parts.text(found.run)}</code>"
    told.append(("The same again", again))
    if seen is None:
        return parts.pairs(told) + parts.note("Its packages were not seen.")
    rows = [
        (parts.text(one.name), parts.text(one.version), parts.text("editable" if one.is_editable else one.origin or "an index"))
        for one in seen.packages
    ]
    packages = parts.table(("Package", "Version", "From"), rows, empty="It had no packages.", label="Packages")
    return f"{parts.pairs(told)}<details><summary>{counted(len(rows), 'package')}</summary>{packages}</details>"


def made_from(view: View, ref: str) -> str:
    """Return the run's lineage as a picture and as rows."""
    return graph.picture(view, lineage.of_run(view.ctx, view.actor, ref))


def _files(view: View, value: Value) -> list[tuple[str, str, str, str]]:
    if value.kind not in FOLDERS or not value.digest or view.ctx.blobs.missing([value.digest]):
        return []
    listed = read_manifest(view.ctx.blobs.get(value.digest)).files[:MAX_FILES]
    return [
        (f'<span class="ms-soft">{parts.text(one.path)}</span>', "file", show_bytes(one.size), _download(one.digest, one.path))
        for one in listed
    ]


def _download(digest: str, path: str) -> str:
    name = parts.text(path.rpartition("/")[2])
    return f'<a href="/api/v1/blobs/{digest}" download="{name}">download</a> {parts.short_id(digest, 8)}'


def _size(value: Value) -> str:
    return show_bytes(value.size_bytes) if value.size_bytes else ""


def _content(value: Value) -> str:
    if value.kind is ValueKind.JSON and not value.digest:
        return f"<code>{parts.text(str(value.json)[:MAX_SHOWN])}</code>"
    told = " ".join(f"{name} {one}" for name, one in value.meta.items() if isinstance(one, str | int | float))
    taken = _download(value.digest, f"{value.kind.value}.bin") if value.kind not in FOLDERS else parts.short_id(value.digest, 8)
    return f"{taken} {parts.text(told[:120])}"


def _word(one: Attempt) -> str:
    if one.outcome is None:
        return one.state.value
    return {Cause.SUCCEEDED: "succeeded", Cause.CANCELLED: "cancelled", Cause.PREEMPTED: "preempted"}.get(
        one.outcome.cause, "failed"
    )


def _end(one: Attempt, now: datetime) -> datetime:
    return one.ended_at or now


def _bars(one: Attempt, now: datetime, longest: float) -> str:
    begun, launched, started = one.created_at, one.launched_at, one.started_at
    end = _end(one, now)
    is_bad = one.outcome is not None and _word(one) == "failed"
    phases = (
        ("wait", begun, launched or end),
        ("start", launched or end, started or end),
        ("bad" if is_bad else "run", started or end, end),
    )
    return "".join(
        f'<i class="ms-phase-{kind}" style="width:{100 * max((until - since).total_seconds(), 0) / longest:.2f}%"></i>'
        for kind, since, until in phases
    )


def _phases(one: Attempt) -> str:
    words = []
    if one.launched_at is not None and one.started_at is not None:
        words.append(f"Started in {show_seconds((one.started_at - one.created_at).total_seconds())}")
    if one.started_at is not None and one.ended_at is not None:
        words.append(f"ran {show_seconds((one.ended_at - one.started_at).total_seconds())}")
    if one.lost_s:
        gpus = f" ({one.lost_gpu_s:.0f} GPU-seconds)" if one.lost_gpu_s else ""
        words.append(f"lost the work of {show_seconds(one.lost_s)}{gpus} since its newest checkpoint")
    return f"{', '.join(words)}." if words else ""
