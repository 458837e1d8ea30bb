"""Lineage: from an endpoint, a model or a run down to the digests of files, as a graph of nodes and edges."""

from __future__ import annotations

from dataclasses import dataclass, field

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError
from mainspring.core.manifests import read_manifest
from mainspring.core.records import Run
from mainspring.core.specs import Value, ValueKind
from mainspring.services import endpoints, models, runs
from mainspring.services.context import Context
from mainspring.services.gates import is_about

MAX_NODES = 500
MAX_FILES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageNode:
    """`kind` is endpoint, model, run, dataset, code, gate or file; `detail` a digest or a sentence."""

    id: str
    kind: str
    label: str
    detail: str = ""


@dataclass(slots=True)
class Lineage:
    """A graph under construction; edges point from what was made to what it was made from."""

    nodes: dict[str, LineageNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def to_plain(self) -> dict[str, object]:
        """Return `{nodes: [...], edges: [[from, to], ...]}`."""
        return {"nodes": list(self.nodes.values()), "edges": [list(edge) for edge in self.edges]}

    def add(self, node: LineageNode, parent: str = "") -> bool:
        """Add `node` below `parent`; return whether it is new (and should be followed)."""
        is_new = node.id not in self.nodes and len(self.nodes) < MAX_NODES
        if is_new:
            self.nodes[node.id] = node
        if parent and node.id in self.nodes and (parent, node.id) not in self.edges:
            self.edges.append((parent, node.id))
        return is_new


def of_run(ctx: Context, actor: Actor, ref: str) -> dict[str, object]:
    """Return what the run was made from: code, data sets and the runs that made those."""
    graph = Lineage()
    _run(ctx, graph, runs.get(ctx, actor, ref), "")
    return graph.to_plain()


def of_model(ctx: Context, actor: Actor, name: str, ref: str = "latest", *, project: str = "default") -> dict[str, object]:
    """Return what the model version was made from."""
    graph = Lineage()
    version = models.resolve(ctx, actor, name, ref, project=project)
    _model(ctx, graph, project, version.model, version.number, "")
    return graph.to_plain()


def of_endpoint(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> dict[str, object]:
    """Return what the live revision of the endpoint was made from."""
    endpoint = endpoints.get(ctx, actor, name, project=project)
    graph = Lineage()
    top = f"endpoint:{endpoint.id}"
    graph.add(LineageNode(id=top, kind="endpoint", label=endpoint.name, detail=f"revision {endpoint.revision}"))
    for revision in ctx.store.endpoints.revisions(endpoint.id):
        if revision.number == endpoint.revision:
            _model(ctx, graph, project, revision.model, revision.model_version, top)
    return graph.to_plain()


def _model(ctx: Context, graph: Lineage, project: str, name: str, number: int, parent: str) -> None:
    version = ctx.store.models.resolve(project, name, str(number))
    if version is None:
        raise NotFoundError(f"Model {name} v{number} is gone.")
    node = LineageNode(id=f"model:{name}@{number}", kind="model", label=f"{name} v{number}", detail=version.manifest)
    if not graph.add(node, parent):
        return
    for verdict in ctx.store.gates.all(project):
        if is_about(verdict, version):
            graph.add(
                LineageNode(id=f"gate:{verdict.id}", kind="gate", label=verdict.objective, detail=verdict.sentence), node.id
            )
    producer = ctx.store.runs.get(version.run) if version.run else None
    if producer is not None:
        _run(ctx, graph, producer, node.id)


def _run(ctx: Context, graph: Lineage, run: Run, parent: str) -> None:
    node = LineageNode(id=f"run:{run.id}", kind="run", label=run.name, detail=run.id)
    if not graph.add(node, parent):
        return
    source = ctx.store.runs.get(run.cached_from) if run.cached_from else None
    if source is not None:
        _run(ctx, graph, source, node.id)
    code = run.spec.code
    if code.manifest:
        label = f"code {code.git_commit[:10]}{' + changes' if code.is_dirty else ''}" if code.git_commit else "code"
        graph.add(LineageNode(id=f"code:{code.manifest}", kind="code", label=label, detail=code.manifest), node.id)
    for name, value in sorted(run.spec.args.items()):
        if value.kind is ValueKind.DATASET:
            _dataset(ctx, graph, run, name, value, node.id)
        elif value.digest:
            graph.add(LineageNode(id=f"file:{value.digest}", kind="file", label=name, detail=value.digest), node.id)
            _producers(ctx, graph, run, value.digest, f"file:{value.digest}")


def _dataset(ctx: Context, graph: Lineage, run: Run, name: str, value: Value, parent: str) -> None:
    version = ctx.store.datasets.by_manifest(run.project, value.digest)
    label = f"{version.dataset} v{version.number}" if version else name
    node = LineageNode(id=f"dataset:{value.digest}", kind="dataset", label=label, detail=value.digest)
    if not graph.add(node, parent):
        return
    manifest = read_manifest(ctx.blobs.get(value.digest))
    for entry in manifest.files[:MAX_FILES_SHOWN]:
        graph.add(LineageNode(id=f"file:{entry.digest}", kind="file", label=entry.path, detail=entry.digest), node.id)
    if version is not None and version.producer:
        producer = ctx.store.runs.get(version.producer)
        if producer is not None:
            _run(ctx, graph, producer, node.id)
    _producers(ctx, graph, run, value.digest, node.id)


def _producers(ctx: Context, graph: Lineage, run: Run, digest: str, parent: str) -> None:
    for producer in ctx.store.runs.producers(digest, project=run.project)[:3]:
        if producer.id != run.id:
            _run(ctx, graph, producer, parent)
