"""The command `monitor-resilient`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import click

from monitor_resilient import listings
from monitor_resilient.config import PLUGIN, MonitorConfig, load_config
from monitor_resilient.metrics import findings_text, loads_text, write_atomically
from monitor_resilient.model import Finding
from monitor_resilient.output import show, show_json
from monitor_resilient.readings import Readings
from monitor_resilient.watch import Watch, Watched
from resilient_core.command import run_command
from resilient_core.errors import UsageError
from resilient_core.redaction import redactor
from resilient_core.secrets import Resolver

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = (
    "Exit codes: 0 ok, learning or warn; 1 a fail (with --fail-on warn also a warning); 3 something is unknown;"
    " 4 an alert could not be delivered. Where several hold, 4 beats 1, and 1 beats 3."
)


@dataclass
class Session:
    """One call of the command: where its configuration is, and what time it is."""

    config_path: str | None
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger(PLUGIN))

    @cached_property
    def config(self) -> MonitorConfig:
        """The configuration, read when a command first needs it."""
        return load_config(self.config_path)

    @cached_property
    def watch(self) -> Watch:
        """The monitor at this instant."""
        return Watch(self.config, Resolver(), self.now, self.logger)

    @contextmanager
    def readings(self) -> Iterator[Readings]:
        """The destination, for reading."""
        database = self.watch.open_database()
        try:
            yield Readings(database, self.now)
        finally:
            database.close()


def format_option(command: F) -> F:
    """`--format table|json`, as every listing has it."""
    option = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="Output.")
    return option(command)


def fail_on_option(command: F) -> F:
    """`--fail-on warn`."""
    option = click.option("--fail-on", type=click.Choice(["fail", "warn"]), default="fail", help="What makes it a 1.")
    return option(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "config_path", type=click.Path(dir_okay=False), help="monitor.yaml; without it, the environment."
)
@click.version_option(package_name="singer-resilient", prog_name=PLUGIN)
@click.pass_context
def cli(context: click.Context, config_path: str | None) -> None:
    """Watches the loads: credentials, freshness, volume, rejects, completeness, drift.

    Every setting can also be given as MONITOR_RESILIENT_<SETTING>, objects and arrays as JSON.
    """
    context.obj = Session(config_path)


@cli.command(epilog=EXIT_CODES)
@fail_on_option
@format_option
@click.pass_obj
def check(session: Session, fail_on: str, form: str) -> int:
    """Evaluate all checks and tell what is due."""
    return _report(session.watch.check(), fail_on, form)


@cli.command(epilog=EXIT_CODES)
@fail_on_option
@format_option
@click.pass_obj
def probe(session: Session, fail_on: str, form: str) -> int:
    """Try the credentials of every source, and the destination, with one cheap request each."""
    return _report(session.watch.probe(), fail_on, form)


def _report(watched: Watched, fail_on: str, form: str) -> int:
    rows = [_finding_row(finding) for finding in watched.findings]
    show(rows, ["check", "stream", "state", "value", "message"], form)
    return watched.exit_code(fail_on_warn=fail_on == "warn")


def _finding_row(finding: Finding) -> dict[str, Any]:
    outcome = finding.outcome
    return {
        "check": finding.check,
        "type": finding.kind,
        "stream": finding.subject,
        "state": outcome.state,
        "severity": finding.severity,
        "value": outcome.value,
        "threshold": outcome.threshold,
        "message": outcome.message,
    }


@cli.command()
@click.option("--pipeline", help="Only this pipeline.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first.")
@format_option
@click.pass_obj
def runs(session: Session, pipeline: str | None, limit: int, form: str) -> None:
    """List the loads, newest first."""
    with session.readings() as readings:
        rows = listings.runs(readings, pipeline, limit)
    show(rows, ["load_id", "pipeline", "status", "started_at", "seconds", "exit_code", "received", "quarantined",
                "reason"], form)  # fmt: skip


@cli.group()
def state() -> None:
    """The bookmarks that the loads have committed."""


@state.command("show")
@click.argument("pipeline", required=False)
@format_option
@click.pass_obj
def show_state(session: Session, pipeline: str | None, form: str) -> None:
    """Show the state of PIPELINE, or of all; as JSON it is what `tap --state` takes."""
    with session.readings() as readings:
        found = listings.states(readings, pipeline)
    if form == "json":
        show_json(found[0]["value"] if pipeline else found)
    else:
        show(listings.bookmarks(found), ["pipeline", "stream", "bookmark", "verdict", "committed_at"], form)


@cli.group()
def quarantine() -> None:
    """The records that loads refused."""


@quarantine.command("list")
@click.option("--stream", help="Only this stream.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many, newest first.")
@format_option
@click.pass_obj
def list_quarantine(session: Session, stream: str | None, limit: int, form: str) -> None:
    """List refused records with the first reason of each, never their values."""
    with session.readings() as readings:
        rows = listings.quarantined(readings, stream, limit)
    show(rows, ["id", "stream", "pointer", "rule", "expected", "actual_type", "errors", "times_seen", "last_seen_at"],
         form)  # fmt: skip


@quarantine.command("show")
@click.argument("identifier", metavar="ID")
@click.pass_obj
def show_quarantined(session: Session, identifier: str) -> None:
    """Show one refused record whole, with all its reasons. ID may be the beginning of one."""
    with session.readings() as readings:
        show_json(listings.one_quarantined(readings, identifier))


@cli.group()
def contract() -> None:
    """Contracts: what the records of a stream must look like."""


@contract.command()
@click.argument("stream")
@click.option(
    "--tap", "tap_config", type=click.Path(dir_okay=False), help="Configuration of tap-resilient to read with."
)
@click.option("--input", "lines", type=click.File("rb"), help="Singer messages of any tap; - is standard input.")
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True, help="Records to look at.")
@click.option("--output", type=click.Path(dir_okay=False), help="New file; by default standard output.")
@click.pass_obj
def infer(
    session: Session, *, stream: str, tap_config: str | None, lines: IO[bytes] | None, limit: int, output: str | None
) -> None:
    """Draft a contract for STREAM from live records, for a person to review."""
    from monitor_resilient.contract import draft_contract

    drafted, doubts = draft_contract(stream, tap_config, lines, limit, session.now.date())
    for doubt in doubts:
        session.logger.warning("%s", f"look at {doubt}")
    if not output:
        show_json(drafted)
        return
    if Path(output).exists():
        raise UsageError(f"contract infer: {output} exists; a draft never replaces a contract")
    write_atomically(Path(output), json.dumps(drafted, indent=2, ensure_ascii=False) + "\n")
    click.echo(f"draft: {output}")


@cli.group()
def alerts() -> None:
    """What was told, and whether telling works."""


@alerts.command("list")
@click.option("--all", "everything", is_flag=True, help="Also what is quiet, and what has ended.")
@format_option
@click.pass_obj
def list_alerts(session: Session, everything: bool, form: str) -> None:
    """List what stands now: pending and firing."""
    rows = listings.alerts(session.watch, everything=everything)
    show(rows, ["check", "stream", "state", "phase", "since", "value", "threshold", "notified_at"], form)


@alerts.command("test")
@click.pass_obj
def test_alerts(session: Session) -> int:
    """Send a test alert to every channel; 4 if one cannot deliver it."""
    return listings.test_alert(session.watch)


@cli.command()
@click.option("--output", type=click.Path(dir_okay=False), help="File; by default standard output.")
@click.pass_obj
def metrics(session: Session, output: str | None) -> None:
    """Write Prometheus metrics of the checks and the last loads."""
    with session.readings() as readings:
        loads = readings.loads()
    text = findings_text(listings.last_findings(session.watch), session.now) + loads_text(loads)
    if output:
        write_atomically(Path(output), text)
    else:
        click.echo(redactor.redact(text), nl=False)


@cli.command()
@click.option("--output", type=click.Path(dir_okay=False), help="File; by default the setting report.path.")
@click.pass_obj
def report(session: Session, output: str | None) -> None:
    """Write the HTML report: one file that needs no network."""
    from monitor_resilient.report import write_report

    path = Path(output) if output else session.config.report_path
    write_report(session.watch, path)
    click.echo(f"report: {path.resolve()}")


@cli.command()
@click.option("--directory", type=click.Path(file_okay=False), default="resilient-demo", show_default=True,
              help="Where its files go.")  # fmt: skip
def demo(directory: str) -> None:
    """Take a tour: an API that misbehaves, and one failure of each of the seven kinds (half a minute)."""
    from monitor_resilient.demo.tour import run_tour

    report = run_tour(Path(directory).resolve())
    click.secho(f"\nThe report: {report}", bold=True)


def main() -> NoReturn:
    """Run the command."""
    run_command(PLUGIN, cli)
