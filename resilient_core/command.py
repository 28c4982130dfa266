"""How every command of ours starts and ends: logging, exit codes, no traceback for what a user can mend."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from resilient_core.errors import (
    ConfigError,
    Fault,
    ResilientError,
    TerminatedError,
    UnavailableError,
    UsageError,
    exit_meaning,
)
from resilient_core.settings import Setting, parse_override
from resilient_core.telemetry import facts, setup_logging

GC_THRESHOLDS = (200_000, 20, 100)
"""A page or a frame makes thousands of dicts without a cycle; collecting them took a fifth of the time."""


SWITCH_SECONDS = 0.0005
"""How long a thread waits for the interpreter lock, ten times less than Python's default: the thread that talks to the
database or the API needs it often and briefly, beside one that computes."""


def run_command(plugin: str, command: click.Command, args: Sequence[str] | None = None) -> NoReturn:
    """Run a click command to its end and exit with the code of README's table; the last log line names the meaning."""
    setup_logging(plugin)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
    logger = logging.getLogger(plugin)
    code = exit_code_of(command, args, logger)
    if code >= 64:  # below are the findings of monitor-resilient, which its listing has told
        logger.error(facts("finished", exit_code=code, meaning=exit_meaning(code)))
    if sys.stdout is not None:  # it is None when the command was started with stdout closed
        sys.stdout.flush()
    sys.exit(code)


def exit_code_of(command: click.Command, args: Sequence[str] | None, logger: logging.Logger) -> int:
    """Run `command` and return its exit code; log what went wrong, with a traceback only for a bug of ours."""
    try:
        result = command.main(args=args, prog_name=logger.name, standalone_mode=False)
    except click.ClickException as error:
        logger.error("%s", f"{error.format_message()} (see {logger.name} --help)")  # noqa: TRY400
        return UsageError.exit_code
    except click.Abort:
        return 130
    except ResilientError as error:
        if error.code == ResilientError.exit_code:
            logger.exception("%s", "a bug of ours; please report it with this traceback")
        else:
            logger.error("%s", f"{type(error).__name__.removesuffix('Error')}: {error}")  # noqa: TRY400
        return error.code
    except BrokenPipeError as error:
        return stdout_lost(error, "").code
    except Exception:
        logger.exception("%s", "a bug of ours; please report it with this traceback")
        return ResilientError.exit_code
    return result if isinstance(result, int) else 0


def load_config_files(paths: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """The merged JSON configuration of `paths` (later wins), and whether `ENV` was among them.

    Raises ConfigError naming each file that is missing, unreadable, no JSON, or no object.
    """
    config: dict[str, Any] = {}
    faults: list[Fault] = []
    for path in paths:
        if path == "ENV":
            continue
        try:
            loaded = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            faults.append(Fault(path, f"cannot be read: {error.strerror}"))
        except ValueError as error:
            line = getattr(error, "lineno", None)
            faults.append(Fault(path, "is not valid JSON" + (f" (line {line})" if line else "")))
        else:
            if isinstance(loaded, dict):
                config.update(loaded)
            else:
                faults.append(Fault(path, "must hold one JSON object"))
    if faults:
        raise ConfigError(faults)
    return config, "ENV" in paths


def environment_overrides(
    plugin: str, settings: Sequence[Setting], environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """The settings given as `<PLUGIN>_<SETTING>`. Raises ConfigError with every one that cannot be read."""
    prefix = plugin.upper().replace("-", "_")
    overrides: dict[str, Any] = {}
    faults: list[Fault] = []
    for setting in settings:
        name = f"{prefix}_{setting.name.upper()}"
        if name not in environ:
            continue
        try:
            overrides[setting.name] = parse_override(setting, environ[name])
        except ValueError as error:
            faults.append(Fault(name, str(error)))
    if faults:
        raise ConfigError(faults)
    return overrides


def stdout_lost(error: OSError, advice: str) -> ResilientError:
    """What to raise when stdout cannot be written: TerminatedError once its reader is gone, else UnavailableError.

    Silences stdout: the interpreter would complain again while it flushes at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return TerminatedError(signal.SIGPIPE)
    return UnavailableError(f"stdout cannot be written: {error.strerror}; {advice}")
