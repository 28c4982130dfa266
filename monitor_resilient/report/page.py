"""The report as one HTML page: no script, no request, readable without charts and in the dark."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from monitor_resilient.alerts.lifecycle import Episode
from monitor_resilient.model import SEVERITY_OF
from monitor_resilient.report import charts
from monitor_resilient.report.facts import Facts, Reject
from monitor_resilient.words import count
from resilient_core.errors import ConfigError

Cells = Sequence[Any]

_WORST_FIRST = ("fail", "unknown", "warn", "learning", "ok")
_HEADLINES = {
    "fail": "Something is wrong",
    "unknown": "Something could not be evaluated",
    "warn": "Something needs a look",
    "learning": "All is well, as far as is known yet",
    "ok": "All is well",
}
_RECENT = 25


class Raw(str):
    """Text that is HTML already."""

    __slots__ = ()


def render(facts: Facts) -> str:
    """The whole page."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    sections = (_checks, _volume, _freshness, _rejects, _drift, _runs, _incidents)
    return _PAGE.format(
        style=style,
        banner=_banner(facts),
        destination=_text(facts.destination),
        at=_time(facts.now),
        days=facts.days,
        sections="\n".join(section(facts) for section in sections),
    )


def _banner(facts: Facts) -> str:
    if not facts.findings:
        return '<p class="banner unknown"><strong>No checks are configured.</strong></p>'
    severities = [finding.severity for finding in facts.findings]
    worst = next(name for name in _WORST_FIRST if name in severities)
    counts = ", ".join(f"{severities.count(name)} {name}" for name in _WORST_FIRST if name in severities)
    return f'<p class="banner {worst}"><strong>{_HEADLINES[worst]}.</strong> {counts}</p>'


def _checks(facts: Facts) -> str:
    by_severity = sorted(facts.findings, key=lambda finding: _WORST_FIRST.index(finding.severity))
    rows = [(badge(f.outcome.state), f.check, f.subject, f.outcome.message) for f in by_severity]
    return _section("Checks and probes", _table(("state", "check", "stream", "what was found"), rows))


def _volume(facts: Facts) -> str:
    return _section("Volume", *(_volume_of(name, facts) for name in facts.volumes))


def _volume_of(stream: str, facts: Facts) -> str:
    points = facts.volumes[stream]
    if not points:
        return f"<h3>{_text(stream)}</h3><p>No successful load in this time.</p>"
    last = points[-1]
    expected = "not known yet" if last.expected is None else f"about {float(last.expected):,.0f}"
    caption = f"{stream}: {count(last.run.received, 'row')} in the last load, expected {expected}"
    rows = [
        (_time(p.run.finished_at), p.run.received, _number(p.expected), _number(p.low), _number(p.high), badge(p.state))
        for p in reversed(points)
    ]
    table = _table(("load ended", "rows", "expected", "quiet from", "quiet to", "state"), rows)
    return f"<h3>{_text(stream)}</h3>" + _figure(lambda: charts.volume_chart(points), caption, table)


def _freshness(facts: Facts) -> str:
    known = [age for age in facts.ages if age.hours is not None]
    if not known:
        return _section("Freshness", "<p>No freshness check, or none that could be evaluated.</p>")
    rows = [(age.stream, _number(age.hours), _number(age.warn_hours), _number(age.error_hours)) for age in known]
    table = _table(("stream", "age, hours", "late from", "too late from"), rows)
    return _section("Freshness", _figure(lambda: charts.freshness_chart(known), "Age of the newest row", table))


def _rejects(facts: Facts) -> str:
    if not facts.rejects:
        return _section("Refused records", "<p>No record was refused.</p>")
    rows = [(r.stream, r.pointer, r.rule, r.expected, r.actual_type, r.records) for r in facts.rejects]
    table = _table(("stream", "field", "rule", "expected", "type seen", "records"), rows)
    caption = f"Refused records by field and reason; {_worst(facts.rejects)}"
    return _section("Refused records", _figure(lambda: charts.rejects_chart(facts.rejects), caption, table))


def _drift(facts: Facts) -> str:
    if not facts.changes:
        return _section("Drift", "<p>No column has changed.</p>")
    rows = [(_time(change.at), change.stream, change.column, change.change) for change in facts.changes]
    return _section("Drift", _table(("when", "stream", "column", "change"), rows))


def _runs(facts: Facts) -> str:
    if not facts.loads:
        return _section("Loads", "<p>No load in this time.</p>")
    rows = [
        (_time(load.started_at), load.pipeline, badge(_end_state(charts.end_of(load)), charts.end_of(load)),
         load.received, load.quarantined, load.reason or "")
        for load in facts.loads[:_RECENT]
    ]  # fmt: skip
    table = _table(("started", "pipeline", "end", "received", "refused", "reason"), rows)
    caption = f"{count(len(facts.loads), 'load')} by start and duration"
    return _section("Loads", _figure(lambda: charts.runs_chart(facts.loads), caption, table))


def _incidents(facts: Facts) -> str:
    bad = [episode for episode in facts.episodes if episode.severity in ("warn", "fail", "unknown")]
    if not bad:
        return _section("Incidents", "<p>None on record.</p>")
    newest = sorted(bad, key=lambda episode: episode.since, reverse=True)[:_RECENT]
    rows = [_incident(episode) for episode in newest]
    return _section("Incidents", _table(("state", "check", "stream", "since", "last seen", "told"), rows))


def _incident(episode: Episode) -> Cells:
    told = _time(episode.notified_at) if episode.notified_at else "no"
    return (badge(episode.state), episode.check, episode.subject, _time(episode.since), _time(episode.at), told)


def badge(state: str, words: str = "") -> Raw:
    """A state as a coloured word."""
    return Raw(f'<span class="badge {SEVERITY_OF.get(state, "unknown")}">{_text(words or state)}</span>')


def _end_state(end: str) -> str:
    return {"done": "ok", "stopped": "warn", "failed": "fail"}.get(end, "unknown")


def _worst(rejects: Sequence[Reject]) -> str:
    first = rejects[0]
    return f"most often {first.pointer or 'the record'} of {first.stream} ({first.rule})"


def _section(title: str, *parts: str) -> str:
    anchor = title.split(maxsplit=1)[0].lower()
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{title}</h2>' + (
        "".join(parts) or "<p>Nothing on record.</p>"
    ) + "</section>"  # fmt: skip


def _figure(draw: Callable[[], str], caption: str, table: str) -> str:
    """A chart with its figures as a table beneath; without the chart library the table alone, opened."""
    try:
        svg, opened = draw(), ""
    except ConfigError as error:
        svg, opened = f'<p class="note">{_text(str(error))}</p>', " open"
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{_text(caption)}" ', 1)
    figures = f"<details{opened}><summary>the figures</summary>{table}</details>"
    return f'<figure><div class="chart">{svg}</div><figcaption>{_text(caption)}</figcaption></figure>{figures}'


def _table(header: Sequence[str], rows: Sequence[Cells]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, Raw):
        return f"<td>{value}</td>"
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{_text(str(value))}</td>"


def _number(value: Any) -> str:
    return "" if value is None else f"{float(value):,.1f}".removesuffix(".0")


def _time(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M}"


def _text(value: str) -> str:
    return html.escape(value)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>singer-resilient: report</title>
<style>{style}</style>
</head>
<body>
<header><h1>Loads and their health</h1>
<p class="where">{destination} · {at} UTC · the last {days} days · all times UTC</p>
{banner}</header>
<main>
{sections}
</main>
<footer>Written by monitor-resilient. This file needs no network.</footer>
</body>
</html>
"""
