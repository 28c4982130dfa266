"""monitor.yaml and `MONITOR_RESILIENT_…`: read, checked for all faults at once, and turned into values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from monitor_resilient.alerts.channels import Channel, make_channel, parse_channels
from monitor_resilient.alerts.lifecycle import Rules
from monitor_resilient.checks import Check, parse_checks
from monitor_resilient.settings import (
    ALERT_SETTINGS,
    DESTINATION_SETTINGS,
    METRICS_SETTINGS,
    PROBE_SETTINGS,
    REPORT_SETTINGS,
    SETTINGS,
)
from resilient_core.command import environment_overrides
from resilient_core.errors import ConfigError, Fault
from resilient_core.secrets import Resolver, ref_faults
from resilient_core.settings import check_config, with_defaults
from tap_resilient.blocks import read_block
from target_resilient.destination import Destination, parse_destination

PLUGIN = "monitor-resilient"
_TOLD = ("warn", "fail", "unknown")


@dataclass(frozen=True)
class Probe:
    """One source whose credentials are tried. `config` holds the variables of its source file."""

    name: str
    source: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Alerts:
    """Whom to tell and when. The channels' secrets are not resolved yet."""

    rules: Rules
    spool: Path
    channels: tuple[Mapping[str, Any], ...] = ()

    def open_channels(self, resolver: Resolver) -> list[Channel]:
        """The channels with their secrets, fetched now."""
        return [make_channel(resolver.resolve(dict(channel))) for channel in self.channels]


@dataclass(frozen=True)
class MonitorConfig:
    """The whole configuration. Secrets are references until they are used."""

    settings: Mapping[str, Any]
    checks: tuple[Check, ...]
    probes: tuple[Probe, ...]
    alerts: Alerts
    report_path: Path
    report_days: int
    metrics_path: Path | None

    @property
    def meta_schema(self) -> str:
        """Schema of the loader's own tables."""
        return str(self.settings["meta_schema"])

    def destination(self, resolver: Resolver) -> Destination:
        """The destination with its secrets, fetched now."""
        return parse_destination(resolver.resolve({name: self.settings[name] for name in DESTINATION_SETTINGS}))


def load_config(path: str | None, environ: Mapping[str, str] = os.environ) -> MonitorConfig:
    """The configuration of a file (None means none) with the environment's overrides.

    Raises ConfigError with every fault of both.
    """
    given = {**(_read(path) if path else {}), **environment_overrides(PLUGIN, SETTINGS, environ)}
    faults = check_config(SETTINGS, given) + ref_faults("", given)
    wrong = {fault.where for fault in faults}
    settings = with_defaults(SETTINGS, {name: value for name, value in given.items() if name not in wrong})
    config, found = _parse(settings)
    if faults or found:
        raise ConfigError(faults + found)
    return config


def _read(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([Fault(path, f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Fault(path, "is not UTF-8")]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError([Fault(path, "is not valid YAML" + (f" (line {mark.line + 1})" if mark else ""))]) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError([Fault(path, "must hold one mapping")])
    return tree


def _parse(settings: Mapping[str, Any]) -> tuple[MonitorConfig, list[Fault]]:
    checks, check_faults = parse_checks(settings["checks"])
    probes, probe_faults = _probes(settings["probes"])
    alerts, alert_faults = _alerts(settings["alerts"])
    report, report_faults = read_block(REPORT_SETTINGS, settings["report"], "report")
    metrics, metrics_faults = read_block(METRICS_SETTINGS, settings["metrics"], "metrics")
    if report["days"] < 1:
        report_faults.append(Fault("report.days", "must be at least 1"))
    config = MonitorConfig(
        settings,
        tuple(checks),
        tuple(probes),
        alerts,
        Path(report["path"]),
        report["days"],
        Path(metrics["path"]) if metrics["path"] else None,
    )
    return config, check_faults + probe_faults + alert_faults + report_faults + metrics_faults


def _probes(value: Sequence[Any]) -> tuple[list[Probe], list[Fault]]:
    probes: list[Probe] = []
    faults: list[Fault] = []
    for index, block in enumerate(value):
        options, found = read_block(PROBE_SETTINGS, block, f"probes[{index}]")
        faults += found
        probe = Probe(options["name"] or Path(options["source"] or "").stem, options["source"] or "", options["config"])
        if probe.name in [other.name for other in probes]:
            faults.append(Fault(f"probes[{index}].name", "is the name of an earlier probe"))
        probes.append(probe)
    return probes, faults


def _alerts(value: Mapping[str, Any]) -> tuple[Alerts, list[Fault]]:
    block, faults = read_block(ALERT_SETTINGS, value, "alerts")
    channels, channel_faults = parse_channels(block["channels"], "alerts.channels")
    if not all(severity in _TOLD for severity in block["severities"]):
        faults.append(Fault("alerts.severities", f"must be some of: {', '.join(_TOLD)}"))
    rules = Rules(
        frozenset(map(str, block["severities"])),
        timedelta(seconds=block["pending_for"]),
        timedelta(seconds=block["repeat_every"]),
    )
    return Alerts(rules, Path(block["spool"]), tuple(channels)), faults + channel_faults
