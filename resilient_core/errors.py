"""The whole exception tree, grouped by what the caller should do. Each error knows its exit code.

ResilientError                     70  a bug of ours, unless a subclass says otherwise
├── UsageError                     64  fix the command line
├── ConfigError                    78  fix the configuration (all faults at once, never a value)
├── CredentialsRefusedError        77  fix or rotate the credential
├── UnavailableError               69  wait for the source or the destination; all retries are spent
├── StoppedError                   75  run again later; everything committed so far is bookmarked
├── DataRefusedError               65  look at the quarantine
├── IncompleteScanError            65  look at the source: it did not give all that it announced
├── NotSingerError                 76  look at what is piped in
├── HeldByGuardError               79  investigate, or approve with the named override
└── TerminatedError            128 + n  ended by signal n
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import ClassVar

EXIT_MEANINGS: dict[int, str] = {
    0: "done",
    64: "wrong usage of the command line",
    65: "data refused beyond the threshold, or an incomplete scan",
    69: "source or destination unavailable after all retries",
    70: "a bug of ours",
    75: "stopped cleanly, run again later",
    76: "not a Singer message",
    77: "credentials refused",
    78: "configuration wrong",
    79: "held by a guard",
}


def exit_meaning(code: int) -> str:
    """What an exit code says, in words."""
    return EXIT_MEANINGS.get(code) or f"ended by {signal.Signals(code - 128).name}"


class ResilientError(Exception):
    """Root of all errors that a user may see. The message says what, where and what to do; never a value."""

    exit_code: ClassVar[int] = 70

    @property
    def code(self) -> int:
        """The process exit code of this very error."""
        return self.exit_code


class UsageError(ResilientError):
    """Wrong use of the command line."""

    exit_code = 64


@dataclass(frozen=True)
class Fault:
    """One fault in a configuration: `where` is a dotted path such as `streams[0].paginator.type`."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ConfigError(ResilientError):
    """The configuration is wrong. Carries every fault found, so that one run shows them all."""

    exit_code = 78

    def __init__(self, faults: list[Fault] | str) -> None:
        self.faults = [Fault("", faults)] if isinstance(faults, str) else faults
        super().__init__(
            "\n".join(f"- {fault}" for fault in self.faults) if len(self.faults) > 1 else str(self.faults[0])
        )


class CredentialsRefusedError(ResilientError):
    """The other side refused our credentials, also after one refresh."""

    exit_code = 77


class UnavailableError(ResilientError):
    """Source or destination unavailable after all retries."""

    exit_code = 69


class StoppedError(ResilientError):
    """Stopped cleanly; a later run goes on from what is committed and bookmarked."""

    exit_code = 75


class DataRefusedError(ResilientError):
    """More records refused than the configuration allows."""

    exit_code = 65


class IncompleteScanError(ResilientError):
    """The source did not give all that it announced; bookmarks are held."""

    exit_code = 65


class NotSingerError(ResilientError):
    """Input that is no Singer message; the line number is named."""

    exit_code = 76


class HeldByGuardError(ResilientError):
    """A guard held the load (state ahead of data, or a destructive action over its limit)."""

    exit_code = 79


class TerminatedError(ResilientError):
    """Ended by a signal, with nothing uncommitted acknowledged."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"ended by {signal.Signals(signum).name}; nothing uncommitted was acknowledged")

    @property
    def code(self) -> int:
        """128 + signal number, as shells do."""
        return 128 + self.signum
