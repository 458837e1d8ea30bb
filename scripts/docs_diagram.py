"""Draw a state diagram as SVG, without any library: boxes on a grid, arrows as curves, events as labels.

Drawn here and not in the browser, so that the documentation loads nothing from outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from html import escape

COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 250.0, 150.0, 120.0, 40.0, 60.0
STYLE = (
    "text{font:13px "
    "system-ui,sans-serif;fill:#37474f}.s{font-weight:600;fill:#1a237e}.box{fill:#e8eaf6;stroke:#3f51b5;stroke-width:1.5}"
    ".final{fill:#eceff1;stroke:#607d8b;stroke-width:3}.arrow{fill:none;stroke:#78909c;stroke-width:1.5}"
    ".e{font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:4px}"
)


def state_diagram(
    title: str,
    places: Mapping[str, tuple[float, float]],
    edges: Mapping[tuple[str, str], Sequence[str]],
    *,
    final: Set[str],
) -> str:
    """Return the SVG. `places` are (column, row) of each state; `edges` the events between two; `final` have a thick border."""
    columns = max(column for column, _ in places.values())
    rows = max(row for _, row in places.values())
    width = columns * COLUMN + WIDTH + 2 * MARGIN
    height = rows * ROW + HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff" rx="8"/>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse">'
        '<path d="M0 0L10 5L0 10z" fill="#78909c"/></marker></defs>',
    ]
    for (start, end), events in edges.items():
        parts += _loop(places[start], events) if start == end else _arrow(places[start], places[end], events)
    for name, place in places.items():
        x, y = _centre(place)
        kind = "box final" if name in final else "box"
        parts.append(
            f'<rect class="{kind}" x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH:g}" height="{HEIGHT:g}" rx="10"/>'
            f'<text class="s" x="{x:g}" y="{y + 5:g}" text-anchor="middle">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _centre(place: tuple[float, float]) -> tuple[float, float]:
    return MARGIN + WIDTH / 2 + place[0] * COLUMN, MARGIN + HEIGHT / 2 + place[1] * ROW


def _arrow(start: tuple[float, float], end: tuple[float, float], events: Sequence[str]) -> list[str]:
    """Return one curve and its label. Curves bend to their right, so that there and back do not lie on each other."""
    (x1, y1), (x2, y2) = _centre(start), _centre(end)
    distance = math.hypot(x2 - x1, y2 - y1)
    bend = 26.0 if abs(start[0] - end[0]) <= 1 or start[1] != end[1] else 0.3 * distance
    middle = ((x1 + x2) / 2 - (y2 - y1) / distance * bend, (y1 + y2) / 2 + (x2 - x1) / distance * bend)
    if start[1] == end[1] and abs(start[0] - end[0]) <= 1:
        middle = ((x1 + x2) / 2, y1 - 14 if x2 > x1 else y1 + 26)
    from_x, from_y = _border((x1, y1), middle)
    to_x, to_y = _border((x2, y2), middle)
    along = 0.5 if abs(start[1] - end[1]) <= 1 else 0.72  # a long way up passes a row of boxes: its label stands above them
    label_x = (1 - along) ** 2 * from_x + 2 * along * (1 - along) * middle[0] + along**2 * to_x
    label_y = (1 - along) ** 2 * from_y + 2 * along * (1 - along) * middle[1] + along**2 * to_y
    return [
        f'<path class="arrow" marker-end="url(#tip)" d="M{from_x:.1f} {from_y:.1f}Q{middle[0]:.1f} '
        f'{middle[1]:.1f} {to_x:.1f} {to_y:.1f}"/>',
        *_label(label_x, label_y, events),
    ]


def _loop(place: tuple[float, float], events: Sequence[str]) -> list[str]:
    x, y = _centre(place)
    bottom = y + HEIGHT / 2
    return [
        f'<path class="arrow" marker-end="url(#tip)" d="M{x - 42:g} {bottom:g}C{x - 52:g} '
        f"{bottom + 34:g} {x - 8:g} {bottom + 34:g} "
        f'{x - 18:g} {bottom:g}"/>',
        *_label(x - 30, bottom + 38, events),
    ]


def _label(x: float, y: float, events: Sequence[str]) -> list[str]:
    first = y - 6.0 * (len(events) - 1)
    return [
        f'<text class="e" x="{x:.1f}" y="{first + 12 * number:.1f}" text-anchor="middle">{escape(event)}</text>'
        for number, event in enumerate(events)
    ]


def _border(centre: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Return where the line from a box's centre leaves the box."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    scale = min(WIDTH / 2 / abs(dx) if dx else math.inf, HEIGHT / 2 / abs(dy) if dy else math.inf)
    return centre[0] + dx * scale, centre[1] + dy * scale
