"""Graphs as pictures, in layers from left to right, drawn as SVG on the server: lineage, and the steps of pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mainspring.services.lineage import LineageNode
from mainspring.ui import parts
from mainspring.ui.view import View

WIDTH, HEIGHT, GAP_X, GAP_Y = 168, 38, 48, 10
ARC = 12  # room for lines that pass below
MAX_FILES = 4
LABEL = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One box: a small word above its label, where it leads, what is told on hover, and its style (`st-running`)."""

    kind: str
    label: str
    target: str = ""
    title: str = ""
    style: str = ""


def drawing(boxes: Mapping[str, Box], edges: Sequence[tuple[str, str]], label: str) -> str:
    """Return the boxes and the arrows between them; an edge leads to the right."""
    places = _places(boxes, edges)
    width = max(x for x, _ in places.values()) + WIDTH + 2
    height = max(y for _, y in places.values()) + HEIGHT + ARC
    lines = "".join(_line(places[begin], places[end]) for begin, end in edges)
    drawn = "".join(_box(boxes[id], *places[id]) for id in places)
    return (
        f'<div class="ms-scroll"><svg class="ms-graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="group" aria-label="{escape(label, quote=True)}">{lines}{drawn}</svg></div>'
    )


def picture(view: View, found: Mapping[str, object]) -> str:
    """Return the graph that `services.lineage` gave, and the same as a table below it."""
    nodes = {one.id: one for one in _list(found["nodes"]) if isinstance(one, LineageNode)}
    edges = [(str(edge[0]), str(edge[1])) for edge in _list(found["edges"]) if isinstance(edge, list)]
    if len(nodes) < 2:
        return parts.note("Nothing that is versioned went in.")
    kept, edges, left_out = _without_most_files(nodes, edges)
    boxes = {
        id: Box(
            kind={"dataset": "data set"}.get(one.kind, one.kind),
            label=one.label,
            target=address(view, one),
            title=f"{one.label}: {one.detail}",
        )
        for id, one in kept.items()
    }
    drawn = drawing(boxes, edges, f"Lineage of {len(nodes)} things")
    more = parts.note(f"{left_out:,} more files are in the table.") if left_out else ""
    rows = [(parts.text(one.kind), _named(view, one), parts.short_id(one.detail)) for one in nodes.values()]
    table = parts.table(("Kind", "Name", "Digest or id"), rows, empty="", label="Lineage")
    return f"{drawn}{more}<details><summary>As a table</summary>{table}</details>"


def address(view: View, one: LineageNode) -> str:
    """Return where the thing has a page, or nothing."""
    name = one.label.rpartition(" v")[0] or one.label
    match one.kind:
        case "run":
            return view.url(f"/runs/{one.detail}")
        case "dataset":
            return view.url(f"/datasets/{name}", version=one.label.rpartition(" v")[2]) if " v" in one.label else ""
        case "model":
            return view.url(f"/models/{name}", version=one.label.rpartition(" v")[2])
        case "endpoint":
            return view.url(f"/endpoints/{one.label}")
        case _:
            return ""


def _without_most_files(
    nodes: Mapping[str, LineageNode], edges: list[tuple[str, str]]
) -> tuple[dict[str, LineageNode], list[tuple[str, str]], int]:
    shown: dict[str, int] = {}
    gone: set[str] = set()
    parents = {end: begin for begin, end in edges}
    leads_on = {begin for begin, _ in edges}
    for one in nodes.values():
        if one.kind == "file" and one.id not in leads_on:
            parent = parents.get(one.id, "")
            shown[parent] = shown.get(parent, 0) + 1
            if shown[parent] > MAX_FILES:
                gone.add(one.id)
    kept = {id: one for id, one in nodes.items() if id not in gone}
    return kept, [edge for edge in edges if edge[0] in kept and edge[1] in kept], len(gone)


def _places(nodes: Mapping[str, object], edges: Sequence[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Return the corner of each box: longest path from the left, in the order of their parents. O(nodes x edges)."""
    depth = dict.fromkeys(nodes, 0)
    for _ in range(min(len(nodes), 64)):  # bounded: a graph that turns in a circle ends here too
        deeper = {end: max(depth[end], depth[begin] + 1) for begin, end in edges if depth[end] <= depth[begin]}
        if not deeper:
            break
        depth |= deeper
    columns: dict[int, list[str]] = {}
    for id in nodes:
        columns.setdefault(depth[id], []).append(id)
    row: dict[str, float] = {}
    above: dict[str, list[str]] = {}
    for begin, end in edges:
        above.setdefault(end, []).append(begin)
    for level in sorted(columns):
        columns[level].sort(key=lambda id: sum(row.get(one, 0) for one in above.get(id, ())) / max(len(above.get(id, ())), 1))
        row |= {id: number for number, id in enumerate(columns[level])}
    ranks = {level: number for number, level in enumerate(sorted(columns))}
    return {
        id: (1 + ranks[depth[id]] * (WIDTH + GAP_X), 1 + int(row[id]) * (HEIGHT + GAP_Y))
        for level in columns
        for id in columns[level]
    }


def _line(begin: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = begin[0] + WIDTH, begin[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    middle = (x1 + x2) / 2
    if y1 == y2 and x2 - x1 > GAP_X:  # it passes below the boxes that stand between
        return f'<path d="M{x1} {y1}C{x1 + GAP_X} {y1 + HEIGHT} {x2 - GAP_X} {y2 + HEIGHT} {x2} {y2}"/>'
    return f'<path d="M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"/>'


def _box(one: Box, x: int, y: int) -> str:
    label = one.label if len(one.label) <= LABEL else one.label[: LABEL - 1] + "…"
    inner = (
        f"<title>{escape(one.title or one.label)}</title>"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="3"/>'
        f'<text class="ms-kind" x="{x + 8}" y="{y + 14}">{escape(one.kind)}</text>'
        f'<text x="{x + 8}" y="{y + 30}">{escape(label)}</text>'
    )
    style = f' class="{escape(one.style)}"' if one.style else ""
    return f'<a{style} href="{escape(one.target, quote=True)}">{inner}</a>' if one.target else f"<g{style}>{inner}</g>"


def _named(view: View, one: LineageNode) -> str:
    target = address(view, one)
    return parts.link(one.label, target) if target else parts.text(one.label)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
