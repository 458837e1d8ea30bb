"""Charts as ECharts options: a curve, the best so far, parallel coordinates. Grey words that read on light and on dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mainspring.ui.theme import SERIES

WORDS = "#7f8a93"
AXIS: Mapping[str, object] = {
    "axisLabel": {"color": WORDS, "hideOverlap": True},
    "axisLine": {"lineStyle": {"color": WORDS, "opacity": 0.5}},
    "splitLine": {"lineStyle": {"color": WORDS, "opacity": 0.18}},
}
Point = Sequence[float | str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart. `dash` tells it from others where colours do not."""

    name: str
    points: Sequence[Point]
    colour: str = SERIES[0]
    dash: str = "solid"


def curves(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str = "",
    is_from_zero: bool = False,
    span: tuple[float | None, float | None] = (None, None),
) -> dict[str, object]:
    """Return a small chart of one metric over its step, a line for each run; `span` fixes the ends of the x axis."""
    start, end = span
    return {
        "animation": False,
        "title": {"text": title, "left": 0, "top": 0, "textStyle": {"fontSize": 12, "fontWeight": 600, "color": WORDS}},
        "grid": {"left": 52, "right": 14, "top": 26, "bottom": 24},
        "tooltip": {"trigger": "axis", "confine": True},
        "toolbox": {"show": False},
        "brush": {"xAxisIndex": 0, "toolbox": [], "throttleType": "debounce", "throttleDelay": 200},
        "xAxis": {
            "type": "value",
            "min": "dataMin" if start is None else start,
            "max": "dataMax" if end is None else end,
            "name": x_name,
            **AXIS,
            "splitLine": {"show": False},
        },
        "yAxis": {"type": "value", "scale": not is_from_zero, "splitNumber": 3, **AXIS},
        "series": [
            {
                "name": line.name,
                "type": "line",
                "data": [list(point) for point in line.points],
                "showSymbol": len(line.points) < 3,
                "symbolSize": 5,
                "lineStyle": {"width": 1.5, "type": line.dash},
                "color": line.colour,
            }
            for line in lines
        ],
        "aria": {"enabled": True, "label": {"description": f"{title} of {', '.join(line.name for line in lines)}"}},
    }


def stacked(title: str, begin_s: float, stretch_s: float, rows: Sequence[Line]) -> dict[str, object]:
    """Return amounts over time, one band on the other; `begin_s` is in Unix seconds."""
    series: list[dict[str, object]] = [
        {
            "name": row.name,
            "type": "line",
            "step": "end",
            "stack": "all",
            "showSymbol": False,
            "lineStyle": {"width": 1},
            "areaStyle": {"opacity": 0.6},
            "color": row.colour,
            "data": [[round((begin_s + (n + 1) * stretch_s) * 1000), amount] for n, (amount,) in enumerate(row.points)],
        }
        for row in rows
    ]
    return {
        "animation": False,
        "grid": {"left": 44, "right": 16, "top": 52, "bottom": 24},
        "legend": {"top": 0, "left": 0, "textStyle": {"color": WORDS}, "type": "scroll"},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"type": "time", **AXIS, "splitLine": {"show": False}},
        "yAxis": {"type": "value", "min": 0, "name": title, "nameTextStyle": {"color": WORDS}, "splitNumber": 4, **AXIS},
        "series": series,
        "aria": {"enabled": True, "label": {"description": title}},
    }


def pairs(title: str, names: tuple[str, str], rows: Sequence[tuple[str, float, float]]) -> dict[str, object]:
    """Return two bars for each row, the first row on top."""
    before, after = [round(row[1], 2) for row in rows], [round(row[2], 2) for row in rows]
    bars = [
        {"name": name, "type": "bar", "color": colour, "data": values, "barMaxWidth": 14}
        for name, colour, values in ((names[0], SERIES[7], before), (names[1], SERIES[0], after))
    ]
    return {
        "animation": False,
        "grid": {"left": 8, "right": 24, "top": 30, "bottom": 36, "containLabel": True},
        "legend": {"top": 0, "left": 0, "textStyle": {"color": WORDS}},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"type": "value", "name": title, "nameLocation": "middle", "nameGap": 24, "min": 0, **AXIS},
        "yAxis": {"type": "category", "inverse": True, "data": [row[0] for row in rows], **AXIS},
        "series": bars,
        "aria": {"enabled": True, "label": {"description": title}},
    }


def best_so_far(metric: str, trials: Sequence[tuple[int, float]], *, is_maximized: bool) -> dict[str, object]:
    """Return each trial's value as a dot, and the best one up to there as a step line."""
    better = max if is_maximized else min
    line: list[list[float]] = []
    for number, value in trials:
        line.append([number, better(value, line[-1][1]) if line else value])
    return {
        "animation": False,
        "grid": {"left": 60, "right": 16, "top": 28, "bottom": 40},
        "legend": {"top": 0, "left": 0, "textStyle": {"color": WORDS}, "data": ["trial", "best so far"]},
        "tooltip": {"trigger": "item", "confine": True},
        "xAxis": {"type": "value", "name": "trial", "nameLocation": "middle", "nameGap": 24, "minInterval": 1, **AXIS},
        "yAxis": {"type": "value", "scale": True, "name": "", **AXIS},
        "series": [
            {"name": "trial", "type": "scatter", "data": [list(one) for one in trials], "symbolSize": 7, "color": SERIES[4]},
            {
                "name": "best so far",
                "type": "line",
                "step": "end",
                "data": line,
                "showSymbol": False,
                "color": SERIES[5],
                "lineStyle": {"width": 2},
            },
        ],
        "aria": {"enabled": True, "label": {"description": f"Best {metric} so far over trials"}},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of parallel coordinates: `kind` is `value`, `log` or `category`; `low` < `high` fix its ends."""

    name: str
    kind: str = "value"
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()


def parallel(
    axes: Sequence[Axis], lines: Sequence[Sequence[float | str]], span: tuple[float, float], *, is_maximized: bool
) -> dict[str, object]:
    """Return parallel coordinates; the last axis is the metric, whose best end is orange."""
    described: list[dict[str, object]] = []
    for number, one in enumerate(axes):
        axis: dict[str, object] = {
            "dim": number,
            "name": one.name,
            "type": one.kind,
            "nameTextStyle": {"color": WORDS},
            "axisLabel": {"color": WORDS},
            "axisLine": {"lineStyle": {"color": WORDS, "opacity": 0.6}},
        }
        if one.kind == "category":
            axis["data"] = list(one.categories)
        elif one.low is not None and one.high is not None and one.low < one.high:
            axis |= {"min": one.low, "max": one.high}
        else:
            axis["scale"] = True
        described.append(axis)
    shades = ["#8fa3b0", "#56B4E9", "#E69F00"]
    return {
        "animation": False,
        "parallelAxis": described,
        "parallel": {"left": 56, "right": 72, "top": 32, "bottom": 28},
        "visualMap": {
            "show": False,
            "type": "continuous",
            "dimension": len(axes) - 1,
            "min": span[0],
            "max": span[1],
            "inRange": {"color": shades if is_maximized else shades[::-1]},
        },
        "series": [{"type": "parallel", "data": [list(line) for line in lines], "lineStyle": {"width": 1.4, "opacity": 0.8}}],
    }
