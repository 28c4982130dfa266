"""target-resilient: the singer-sdk plugin class and its command; the load itself is in load.py and epoch.py."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import IO, Any, ClassVar

import click
from singer_sdk import Target
from singer_sdk.helpers.capabilities import PluginCapabilities, TargetCapabilities
from singer_sdk.io_base import SingerReader
from singer_sdk.plugin_base import _ConfigInput

from resilient_core.command import environment_overrides, load_config_files, run_command, stdout_lost
from resilient_core.errors import ConfigError, ResilientError, TerminatedError, UsageError, exit_meaning
from resilient_core.secrets import Resolver
from resilient_core.settings import config_jsonschema
from resilient_core.telemetry import facts
from target_resilient.backends import open_backend
from target_resilient.config import APPROVALS, SETTINGS, config_faults, parse_options
from target_resilient.destination import parse_destination
from target_resilient.load import Load
from target_resilient.mapping import Mapping
from target_resilient.reader import read_events

logger = logging.getLogger("target-resilient")


class TargetResilient(Target):
    """Loads any Singer stream into DuckDB or PostgreSQL: validated, idempotent, crash-safe."""

    name = "target-resilient"
    package_name = "singer-resilient"
    config_jsonschema: ClassVar[dict[str, Any]] = config_jsonschema(SETTINGS)
    capabilities: ClassVar[list[Any]] = [
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.FLATTENING,
        PluginCapabilities.ACTIVATE_VERSION,
        TargetCapabilities.VALIDATE_RECORDS,
        TargetCapabilities.TARGET_SCHEMA,
        TargetCapabilities.HARD_DELETE,
    ]

    def __init__(self, *, takeover: bool = False, dry_run: bool = False, **kwargs: Any) -> None:
        kwargs["config"] = _with_environment(kwargs.get("config"), kwargs.pop("parse_env_config", False))
        super().__init__(**kwargs, setup_mapper=False)
        config = Resolver().resolve(dict(self.config))
        self._mapping = _mapping(config, self.logger)
        self._options = parse_options(config, takeover=takeover, dry_run=dry_run)
        self._backend = open_backend(
            parse_destination(config), meta_schema=config.get("meta_schema") or "_resilient", read_only=dry_run
        )
        self._load: Load | None = None
        self.message_reader = _Reader(self._consume)

    @classmethod
    def append_builtin_config(cls, config_jsonschema: dict[str, Any]) -> None:
        """Add nothing: every setting is declared in config.py."""

    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        faults = config_faults(self._config)
        if faults and raise_errors:
            raise ConfigError(faults)
        return [str(fault) for fault in faults]

    def _consume(self, source: IO[Any] | None) -> Counter[str]:
        """Load everything that comes; the load is aborted, and booked as such, by whatever goes wrong."""
        if sys.stdout is None or (source or sys.stdin) is None:
            raise UsageError("stdin and stdout must be open: messages come by one, committed states go by the other")
        load = Load(self._options, self._backend, _acknowledge, self._mapping)
        try:
            load.open()
            load.consume(read_events(source or sys.stdin))
        except BaseException as error:
            _abort(load, error)
            raise
        self._load = load
        return Counter()

    def process_endofpipe(self) -> None:
        """Commit what is left and end the load."""
        if self._load is None:
            return
        try:
            self._load.finish()
        except BaseException as error:
            _abort(self._load, error)
            raise

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        raise TerminatedError(signum)

    @classmethod
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> _ConfigInput:
        """Read the `--config` files."""
        config, from_environment = load_config_files(value)
        return _ConfigInput(config=config, parse_env=from_environment)

    @classmethod
    def invoke(  # type: ignore[override]
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: _ConfigInput | None = None,
        file_input: IO[str] | None = None,
        takeover: bool = False,
        dry_run: bool = False,
    ) -> None:
        """Run the target."""
        super(Target, cls).invoke(about=about, about_format=about_format)
        config = config or _ConfigInput()
        target = cls(config=config.config, parse_env_config=config.parse_env, takeover=takeover, dry_run=dry_run)
        target.process_lines(file_input)
        target.process_endofpipe()

    @classmethod
    def get_singer_command(cls) -> click.Command:
        """The SDK's command with our options."""
        command = super().get_singer_command()
        command.help = "Load a Singer stream into DuckDB or PostgreSQL: validated, idempotent, crash-safe."
        command.params.extend([
            click.Option(["--dry-run"], is_flag=True, help="Validate, say which DDL would run, and write nothing."),
            click.Option(["--takeover"], is_flag=True, help="Take the pipeline over from a load that hangs."),
        ])  # fmt: skip
        return command


class _Reader(SingerReader):
    """What the SDK calls to read: hands the whole input to the load."""

    def __init__(self, consume: Callable[[IO[Any] | None], Counter[str]]) -> None:
        super().__init__()
        self._consume = consume

    def process_lines(self, file_input: IO[Any] | None, callbacks: Any) -> Counter[str]:
        return self._consume(file_input)


def _abort(load: Load, error: BaseException) -> None:
    """Abort a load. Where its commit cannot be broken off, leave at once: nothing of it was acknowledged."""
    if not load.abort(error):
        code = error.code if isinstance(error, ResilientError) else ResilientError.exit_code
        logger.error(facts("left a commit behind that hangs", exit_code=code, meaning=exit_meaning(code)))
        os._exit(code)


def _with_environment(config: Any, parse_env: bool) -> dict[str, Any]:
    settings = [setting for setting in SETTINGS if parse_env or setting.name in APPROVALS]
    return {**dict(config or {}), **environment_overrides(TargetResilient.name, settings)}


def _mapping(config: dict[str, Any], logger: Any) -> Mapping | None:
    if not config.get("stream_maps") and not config.get("flattening_enabled"):
        return None
    return Mapping(config, logger)


def _acknowledge(state: bytes) -> None:
    """Write a committed STATE to stdout, as it came."""
    try:
        sys.stdout.write(state.decode() + "\n")
        sys.stdout.flush()
    except OSError as error:
        kept = "what was committed stays, its state too (monitor-resilient state show)"
        raise stdout_lost(error, f"{kept}: mend what stdout goes to, and run again") from None


def main() -> None:
    """Entry point of the command `target-resilient`."""
    run_command(TargetResilient.name, TargetResilient.get_singer_command())
