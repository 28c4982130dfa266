"""The report's charts: Altair specifications, rendered to SVG without a browser and without network.

Colours are CSS variables of the page, so that the charts follow its light and dark design.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from monitor_resilient.checks.volume import Point
from monitor_resilient.model import Load
from monitor_resilient.report.facts import Age, Reject
from resilient_core.errors import ConfigError

WIDTH = 860
MANY_REASONS = 15
INSTALL = "charts need: pip install 'singer-resilient[report]'"

_STATES = {"ok": "var(--ok)", "learning": "var(--muted)", "fail": "var(--fail)"}
_SHAPES = {"ok": "circle", "learning": "circle", "fail": "triangle-up"}
_ENDS = {"done": "var(--ok)", "stopped": "var(--warn)", "failed": "var(--fail)", "unfinished": "var(--muted)"}


def volume_chart(points: Sequence[Point]) -> str:
    """Rows of each load as points, the expected rows as a line, the quiet range as a band."""
    alt = _altair()
    rows = [_volume_row(point) for point in points]
    top = max([row["rows"] for row in rows] + [2 * (row["expected"] or 0) for row in rows]) * 1.1 or 1
    base = alt.Chart(alt.Data(values=rows)).encode(x=_time(alt, "at"))
    scale = alt.Scale(domain=[0, top], nice=True)
    band = base.mark_area(color="var(--accent)", opacity=0.15, clip=True).encode(
        y=alt.Y("low:Q", scale=scale, title="rows"), y2="high:Q"
    )
    expected = base.mark_line(color="var(--accent)", strokeDash=[5, 4], clip=True).encode(y=alt.Y("expected:Q"))
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(
        y=alt.Y("rows:Q"), color=_color(alt, "state", _STATES), shape=_shape(alt, "state", _SHAPES)
    )
    return _svg((band + expected + dots).properties(width=WIDTH, height=200))


def freshness_chart(ages: Sequence[Age]) -> str:
    """The age of each stream's newest row as a bar, with a mark where it is late and one where it is too late."""
    alt = _altair()
    rows = [
        {"stream": age.stream, "hours": age.hours, "late": age.warn_hours, "too late": age.error_hours,
         "state": _age_state(age)}
        for age in ages
        if age.hours is not None
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("stream:N", title=None))
    bar = base.mark_bar(height=14).encode(
        x=alt.X("hours:Q", title="age of the newest row, hours"),
        color=_color(alt, "state", {"ok": "var(--ok)", "warn": "var(--warn)", "fail": "var(--fail)"}),
    )
    late = base.mark_tick(color="var(--warn)", thickness=3, size=26).encode(x="late:Q")
    too_late = base.mark_tick(color="var(--fail)", thickness=3, size=26).encode(x=alt.X("too late:Q"))
    return _svg((bar + late + too_late).properties(width=WIDTH, height={"step": 34}))


def rejects_chart(rejects: Sequence[Reject]) -> str:
    """Refused records by field and reason."""
    alt = _altair()
    rows: list[dict[str, Any]] = [
        {"reason": f"{r.stream} {r.pointer} {r.rule}", "records": r.records} for r in rejects[:MANY_REASONS]
    ]
    room = min(340, 20 + 7 * max(len(row["reason"]) for row in rows))  # the page's font may be wider than ours
    axis = alt.Axis(labelLimit=room, minExtent=room)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("reason:N", title=None, sort=[row["reason"] for row in rows], axis=axis),
        x=alt.X("records:Q", title="records refused", axis=alt.Axis(tickMinStep=1, format="d")),
    )
    bars = base.mark_bar(color="var(--fail)", height=16)
    labels = base.mark_text(align="left", dx=4, color="var(--text)").encode(text="records:Q")
    return _svg((bars + labels).properties(width=WIDTH - 340, height={"step": 26}))


def runs_chart(loads: Sequence[Load]) -> str:
    """How long each load took, by when it started and how it ended."""
    alt = _altair()
    rows = [
        {"at": load.started_at.isoformat(), "minutes": _minutes(load), "end": end_of(load), "pipeline": load.pipeline}
        for load in loads
    ]
    shapes = {"done": "circle", "stopped": "square", "failed": "triangle-up", "unfinished": "cross"}
    chart = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=55, opacity=0.9)
    encoded = chart.encode(
        x=_time(alt, "at"),
        y=alt.Y("minutes:Q", title="minutes"),
        color=_color(alt, "end", _ENDS),
        shape=_shape(alt, "end", shapes),
    )
    return _svg(encoded.properties(width=WIDTH, height=160))


def end_of(load: Load) -> str:
    """done, stopped, failed or unfinished."""
    if load.exit_code is None:
        return "unfinished"
    return {0: "done", 75: "stopped"}.get(load.exit_code, "failed")


def _volume_row(point: Point) -> dict[str, Any]:
    numbers = {"expected": point.expected, "low": point.low, "high": point.high}
    return {
        "at": point.run.finished_at.isoformat(),
        "rows": point.run.received,
        "state": point.state,
        **{name: None if number is None else float(number) for name, number in numbers.items()},
    }


def _age_state(age: Age) -> str:
    hours = age.hours or 0.0
    if hours > age.error_hours:
        return "fail"
    return "warn" if age.warn_hours is not None and hours > age.warn_hours else "ok"


def _minutes(load: Load) -> float:
    ended = load.finished_at or load.started_at
    return (ended - load.started_at).total_seconds() / 60


def _time(alt: Any, field: str) -> Any:
    return alt.X(
        f"{field}:T", title=None, scale=alt.Scale(type="utc"), axis=alt.Axis(format="%d %b", labelOverlap=True)
    )


def _color(alt: Any, field: str, colors: dict[str, str]) -> Any:
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(title=None, orient="top"))


def _shape(alt: Any, field: str, shapes: dict[str, str]) -> Any:
    scale = alt.Scale(domain=list(shapes), range=list(shapes.values()))
    return alt.Shape(f"{field}:N", scale=scale, legend=alt.Legend(title=None, orient="top"))


def _svg(chart: Any) -> str:
    import vl_convert

    axis = {
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--line)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "gridOpacity": 0.6,
    }
    config = {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": axis,
        "legend": {"labelColor": "var(--muted)", "symbolSize": 70},
    }
    svg: str = vl_convert.vegalite_to_svg(chart.configure(**config).to_dict(), allowed_base_urls=[])
    return re.sub(r' xmlns:xlink="[^"]*"', "", svg)


def _altair() -> Any:
    try:
        import altair
        import vl_convert  # noqa: F401 the renderer has to be there too
    except ImportError:
        raise ConfigError(INSTALL) from None
    return altair
