"""How listings are printed: a table for people, JSON for programs; secrets masked in both."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient_core.redaction import redactor

Rows = Sequence[Mapping[str, Any]]

STYLES = {
    "ok": "green",
    "learning": "cyan",
    "warn": "yellow",
    "degraded": "yellow",
    "fail": "bold red",
    "auth_failed": "bold red",
    "unknown": "magenta",
}
_PIPE_WIDTH = 200


def show(rows: Rows, columns: Sequence[str], form: str) -> None:
    """Print `rows`: as a table of `columns`, or as a JSON array of all that they hold."""
    if form == "json":
        show_json(list(rows))
    elif rows:
        _table(rows, columns)
    else:
        click.echo("nothing to list")


def show_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(redactor.redact(json.dumps(value, indent=2, default=_plain, ensure_ascii=False)))


def _table(rows: Rows, columns: Sequence[str]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=name != "message")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(table)


def _cell(value: Any) -> Text:
    text = redactor.redact("" if value is None else str(_plain(value)))
    return Text(text, style=STYLES.get(text, ""))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return value
