"""The cache of runs: whose outputs a run may take, and which part was not the same."""

from __future__ import annotations

from dataclasses import replace

from mainspring import __version__
from mainspring.core.caching import cache_key, cache_parts, changed_parts, is_same_thing
from mainspring.core.errors import MainspringError
from mainspring.core.manifests import read_manifest
from mainspring.core.records import Run
from mainspring.core.specs import RunKind, ValueKind
from mainspring.services.context import Context

FILES_SHOWN = 3


def prepare(ctx: Context, run: Run, *, is_fresh: bool = False) -> Run:
    """Return `run` with its key, and with the run whose outputs it may take, unless it `is_fresh`: to be computed again.

    The store checks once more, in the transaction that accepts the run. Nothing is taken whose files are not all here.
    """
    if not _may_be_cached(run):
        return run
    sealed = {name: ctx.store.secrets.get_ciphertext(run.project, name) or b"" for name in run.spec.secrets}
    parts = cache_parts(run.spec, sealed, __version__)
    keyed = replace(run, cache_parts=parts, cache_key=cache_key(run.project, parts))
    if is_fresh:
        return keyed
    source = ctx.store.runs.cached(run.project, keyed.cache_key)
    return replace(keyed, cached_from=source.id) if source is not None and _is_whole(ctx, source) else keyed


def tell(ctx: Context, run: Run) -> dict[str, object]:
    """Return `{from, nearest, changed, sentence}`: the run whose outputs were taken, or what no earlier run agreed in."""
    if not run.spec.cache:
        return {}
    if not _may_be_cached(run):
        return {"from": "", "nearest": "", "changed": [], "sentence": "Not cached: it does not say what is installed beside it."}
    if run.cached_from:
        return {
            "from": run.cached_from,
            "nearest": run.cached_from,
            "changed": [],
            "sentence": f"Taken from run {run.cached_from}: nothing that it depends on has changed.",
        }
    nearest = _nearest(ctx, run)
    if nearest is None:
        return {"from": "", "nearest": "", "changed": [], "sentence": "Computed: nothing like it was in the cache."}
    changed = changed_parts(run.cache_parts, nearest.cache_parts)
    if not changed:
        sentence = f"Computed again on request, or because files of run {nearest.id} were gone."
    else:
        words = [one + (_files(ctx, run, nearest) if one == "code" else "") for one in changed]
        sentence = f"Computed: not as in run {nearest.id} are {', '.join(words)}."
    return {"from": "", "nearest": nearest.id, "changed": changed, "sentence": sentence}


def _may_be_cached(run: Run) -> bool:
    """Say whether the run can be keyed: a task that says what is installed; it compares that where it runs."""
    return run.spec.cache and run.spec.kind is RunKind.TASK and bool(run.spec.environment.packages or run.spec.environment.lock)


def _nearest(ctx: Context, run: Run) -> Run | None:
    """Return the earlier run of the same thing that agrees in most; of several the newest."""
    earlier = [
        one for one in ctx.store.runs.keyed(run.project, before=run.seq) if is_same_thing(run.cache_parts, one.cache_parts)
    ]
    return min(earlier, key=lambda one: len(changed_parts(run.cache_parts, one.cache_parts)), default=None)


def _is_whole(ctx: Context, source: Run) -> bool:
    """Say whether every byte that the outputs name is stored here; asking also keeps it from the sweeper for a while."""
    named = {value.digest for value in source.outputs.values() if value.digest}
    folders = [
        value.digest for value in source.outputs.values() if value.digest and value.kind in (ValueKind.DATASET, ValueKind.MODEL)
    ]
    try:
        for digest in folders:
            named.update(entry.digest for entry in read_manifest(ctx.blobs.get(digest)).files)
    except MainspringError:  # gone or damaged: it is computed again
        return False
    return not ctx.blobs.missing(sorted(named))


def _files(ctx: Context, run: Run, nearest: Run) -> str:
    try:
        ours, theirs = (
            {entry.path: entry.digest for entry in read_manifest(ctx.blobs.get(one.spec.code.manifest)).files}
            for one in (run, nearest)
        )
    except MainspringError:  # no code, or gone: the part's name says enough
        return ""
    changed = changed_parts(ours, theirs)
    more = f" and {len(changed) - FILES_SHOWN} more" if len(changed) > FILES_SHOWN else ""
    return f" ({', '.join(changed[:FILES_SHOWN])}{more})"
