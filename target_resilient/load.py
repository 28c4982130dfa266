"""A load from its first message to its last: frames are gathered into epochs, and epochs handed to the loader."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from resilient_core.errors import (
    DataRefusedError,
    HeldByGuardError,
    NotSingerError,
    ResilientError,
    StoppedError,
    TerminatedError,
    exit_meaning,
)
from resilient_core.redaction import redactor
from resilient_core.telemetry import Progress, facts, metric
from target_resilient.backends import Backend, InfrastructureError, Lease, MissingError
from target_resilient.batch import StreamBatch
from target_resilient.batchfiles import batch_events
from target_resilient.books import Books
from target_resilient.checkpoints import reach
from target_resilient.deletes import Activation, Removal, commit_removals, reconciled, refreshed
from target_resilient.epoch import Epoch, Owner
from target_resilient.gap import compare_states, resumed_streams
from target_resilient.ledger import Counts
from target_resilient.loader import Committer, Loader, Patience
from target_resilient.mapping import Mapping
from target_resilient.meta import COUNTS
from target_resilient.options import LoadOptions
from target_resilient.planner import Planner, Stream
from target_resilient.reader import Control, Event, Frame, Idle, Torn, Unreadable
from target_resilient.table import TablePlan

GRACE_SECONDS = 10.0  # a load that is told to end may finish the commit under way, then the commit is broken off
MIN_ROWS_FOR_RATIO = 100  # a ratio of fewer records says nothing
OVERRUN = 2  # without a STATE in reach, an epoch is committed at twice its limits

logger = logging.getLogger("target-resilient")


class Load:
    """Owns a pipeline and its database for one run of the target."""

    def __init__(
        self,
        options: LoadOptions,
        backend: Backend,
        acknowledge: Callable[[bytes], None],
        mapping: Mapping | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._backend = backend
        self._acknowledge = acknowledge
        self._mapping = mapping
        self._clock = clock
        self._stop = threading.Event()
        self._books = Books(backend, options.pipeline, str(uuid.uuid4()))
        self._planner = Planner(options, backend, self._books, self._settle, self._retrying)
        self._lease: Lease | None = None
        self._committer: Committer | None = None
        self._loader: Loader | None = None
        self._epoch = Epoch(1)
        self._epoch_since = self._started = clock()
        self._seen_record = False
        self._last_state: bytes | None = None
        self._resumed: set[str] = set()
        self._received = self._refused = 0
        self._torn: int | None = None
        self._activations: dict[str, Activation] = {}
        self._progress = Progress(logger, "loading")

    # the life of a load ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Own the pipeline and book the start of the load. Raises StoppedError while another load owns it."""
        if self._options.dry_run:
            return
        self._retrying(self._backend.ensure_meta)
        reach("start.meta")
        self._retrying(self._own)
        reach("start.lease")
        self._retrying(self._books.start)
        reach("start.booked")

    def consume(self, events: Iterable[Event]) -> None:
        """Take in every message; epochs are committed on the way."""
        for event in events:
            self._take(event)

    def finish(self) -> None:
        """Commit what is left and book the end. Raises DataRefusedError when too much was refused or input was torn."""
        self._cut()
        self._drain()
        if self._torn is not None:
            raise DataRefusedError(
                f"line {self._torn} is cut off, so the tap died; what came before it is committed, run again"
            )
        if not self._options.dry_run:
            self._close_refreshes()
            self._retrying(lambda: self._books.end(self._status(), 0, "done"))
            reach("close.booked")
        self._report()
        self._close()

    def abort(self, error: BaseException) -> bool:
        """End a load that failed: wait for the commit under way, book the reason, give the pipeline back.

        After a signal that wait is bounded. False when the commit could not even be broken off: leave at once.
        """
        self._stop.set()
        if not self._loader_ended(GRACE_SECONDS if isinstance(error, TerminatedError) else None):
            return False
        if self._lease is not None:
            code = error.code if isinstance(error, ResilientError) else ResilientError.exit_code
            reason = redactor.redact(f"{exit_meaning(code)}: {error}"[:500])
            try:
                self._books.end(self._failed_status(error, code), code, reason)
            except (InfrastructureError, ResilientError):
                logger.warning("%s", "the end of this load could not be booked; the next load will mark it as failed")
        self._close()
        return True

    def _loader_ended(self, grace: float | None) -> bool:
        if self._loader is None or self._loader.close(grace):
            return True
        self._backend.interrupt()
        return self._loader.close(grace)

    def _failed_status(self, error: BaseException, code: int) -> str:
        if self._torn is not None:
            return "incomplete"
        return "stopped" if isinstance(error, StoppedError) or code > 128 else "failed"

    def _close(self) -> None:
        self._progress.close()
        if self._lease is not None:
            self._lease.release()
        self._lease = None
        self._backend.close()

    def _own(self) -> None:
        options = self._options
        holder = f"{socket.gethostname()}:{os.getpid()}"
        self._lease = self._backend.acquire_lease(options.pipeline, holder, takeover=options.takeover)
        owner = Owner(options.pipeline, self._books.load_id, self._lease.fence, self._backend.meta_schema)
        self._committer = Committer(
            self._backend,
            owner,
            self._lease,
            self._acknowledge,
            max_elapsed=options.retry_max_elapsed,
            stop=self._stop,
        )
        self._loader = Loader(self._committer.commit)

    # messages --------------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        if isinstance(event, Frame):
            self._on_frame(event)
        elif isinstance(event, Control):
            _HANDLERS[event.message.type](self, event)
        elif isinstance(event, Unreadable):
            self._seen_record = True
            self._batch(self._planner.stream(event.stream, lambda: event.line)).add_unreadable(event)
            self._cut_if(self._over(OVERRUN))
        elif isinstance(event, Idle):
            self._cut_if(not self._epoch.empty and self._too_old())
        elif isinstance(event, Torn):
            self._torn = event.line

    def _on_frame(self, frame: Frame) -> None:
        self._seen_record = True
        for mapped in self._mapping.frames(frame) if self._mapping is not None else (frame,):
            self._load_frame(mapped)
        self._progress.show(self._received + self._epoch.rows, refused=self._refused or None)

    def _load_frame(self, frame: Frame) -> None:
        stream = self._planner.stream(frame.stream, lambda: frame.line(0))
        versions = {message.version for message in frame.messages}
        if not all(map(_fits, versions)):
            raise NotSingerError(f"line {frame.line(0)}: a RECORD's version is beyond what a bigint holds")
        if versions != {None} or stream.plan.fixed_version is not None:
            self._planner.refresh(stream)
        self._activations.setdefault(frame.stream, Activation()).record(versions)
        for part in self._parts(frame):
            self._planner.evolve(stream, part)
            self._batch(stream).add(part)
            self._cut_if(self._over(OVERRUN))

    def _parts(self, frame: Frame) -> Iterator[Frame]:
        """The frame, cut where an epoch reaches its hard limit of rows."""
        rest: Frame | None = frame
        while rest is not None:
            part, rest = rest.split(max(1, OVERRUN * self._options.max_rows - self._epoch.rows))
            yield part

    def _batch(self, stream: Stream) -> StreamBatch:
        name = stream.spec.stream
        if name not in self._epoch.batches:
            self._start_age()
            self._epoch.batches[name] = StreamBatch(stream.plan, stream.validator, stream.policies)
        return self._epoch.batches[name]

    def _on_schema(self, control: Control) -> None:
        message = control.message
        schema: Any = json.loads(bytes(message.schema))
        if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
            raise NotSingerError(f"line {control.line}: SCHEMA of stream '{message.stream}' has no `properties`")
        key, bookmarks = tuple(message.key_properties or ()), message.bookmark_properties or []
        plain = [(message.stream, schema, key)]
        for name, mapped, mapped_key in self._mapping.schemas(*plain[0]) if self._mapping is not None else plain:
            self._planner.describe(name, mapped, mapped_key, bookmarks)

    def _on_state(self, control: Control) -> None:
        state = bytes(control.message.value)
        first = self._last_state is None
        if first and not self._seen_record and not self._options.dry_run:
            self._resumed = resumed_streams(state)
            self._check_gap(state)
        self._start_age()
        self._epoch.state = self._last_state = state
        self._cut_if(first or self._over(1) or self._too_old())

    def _on_activate_version(self, control: Control) -> None:
        name, version = control.message.stream, control.message.version
        assert version is not None  # noqa: S101 the reader refuses the message without it
        if not _fits(version):
            raise NotSingerError(f"line {control.line}: ACTIVATE_VERSION is beyond what a bigint holds")
        if name not in self._planner.names:
            logger.warning(facts("ACTIVATE_VERSION before the SCHEMA of its stream is ignored", stream=name))
            return
        self._planner.refresh(self._planner.stream(name, lambda: control.line))
        self._activations.setdefault(name, Activation()).activate(version)

    def _on_batch(self, control: Control) -> None:
        for event in batch_events(control):
            self._take(event)

    # epochs ----------------------------------------------------------------------------------------------------------

    def _start_age(self) -> None:
        if self._epoch.empty:
            self._epoch_since = self._clock()

    def _too_old(self) -> bool:
        return self._clock() - self._epoch_since >= self._options.max_age

    def _over(self, times: int) -> bool:
        """Whether the epoch is past its limits of rows or bytes, `times` over."""
        epoch, options = self._epoch, self._options
        return epoch.rows >= times * options.max_rows or epoch.bytes >= times * options.max_bytes

    def _cut_if(self, due: bool) -> None:
        if due:
            self._cut()

    def _cut(self) -> None:
        """Close the epoch and hand it to the loader; stop when too much of it was refused."""
        epoch = self._epoch
        if self._refreshing:
            epoch.state = None
        if epoch.empty:
            return
        self._received += epoch.rows
        self._refused += sum(batch.counts.quarantined for batch in epoch.batches.values())
        self._epoch = Epoch(epoch.number + 1)
        if self._loader is not None:
            self._loader.submit(epoch)
        self._check_refused()

    def _drain(self) -> None:
        if self._loader is not None:
            self._loader.drain()

    def _settle(self, stream: str) -> None:
        """Commit what an epoch holds of a stream, and wait until nothing is under way."""
        if stream in self._epoch.batches:
            self._cut()
        self._drain()

    def _check_refused(self) -> None:
        """Stop when more was refused than allowed; the quarantine itself is committed first."""
        options, refused = self._options, self._refused
        ratio = refused / self._received if self._received >= MIN_ROWS_FOR_RATIO else 0.0
        too_many = options.max_quarantine_rows is not None and refused > options.max_quarantine_rows
        if too_many or ratio > options.max_quarantine_ratio:
            self._drain()
            raise DataRefusedError(
                f"{refused} of {self._received} records were refused, more than max_quarantine_ratio"
                f" ({options.max_quarantine_ratio:g}) or max_quarantine_rows allow; they are kept in"
                f" {self._backend.meta_schema}.quarantine with field and reason"
            )

    # the closing epoch -----------------------------------------------------------------------------------------------

    @property
    def _refreshing(self) -> bool:
        """Whether rows may wait to be removed. Until they are, a STATE would say that all is done: it is held back."""
        if self._options.tables.load_version is not None or self._planner.companions:
            return True
        found = (a for a in self._activations.values() if a.version is not None)
        return any(activation.after_rows or self._options.trust_eof for activation in found)

    def _close_refreshes(self) -> None:
        """The closing epoch: remove what complete refreshes no longer brought, and let the last STATE go."""
        if not self._refreshing or self._loader is None:
            return
        removals = [found for name in self._planner.names if (found := self._removal(name))]
        removals += [found for keys in self._planner.companions if (found := self._reconciliation(keys))]
        write = partial(commit_removals, removals=removals)
        self._loader.submit(Epoch(self._epoch.number, state=self._last_state), write)
        self._drain()

    def _removal(self, name: str) -> Removal | None:
        """What to remove from a stream's table; None without a refresh, or where nothing proves that all had come."""
        plan = self._planner.stream(name, lambda: 0).plan
        activation = self._activations.get(name, Activation())
        version = activation.version if plan.fixed_version is None else plan.fixed_version
        if version is None or plan.spec.reconciles is not None:
            return None
        if doubt := self._doubt(name, plan, activation, version):
            logger.warning(facts("no rows are removed", stream=name, reason=doubt))
            return None
        return refreshed(plan, version, self._arrived(name), self._options.max_delete_ratio)

    def _reconciliation(self, keys: TablePlan) -> Removal | None:
        """What to remove from the table whose keys a companion stream brought; None unless they came whole."""
        companion, parent = keys.spec.stream, keys.spec.reconciles or ""
        refused = self._counts(companion).quarantined + self._counts(parent).quarantined
        whole = self._options.trust_eof or self._scans().get(companion) == "complete"
        if parent not in self._planner.names or refused or not whole:
            reason = "records were refused" if refused else "nothing proves that all keys came"
            logger.warning(facts("no rows are removed", stream=parent, reason=reason))
            return None
        plan = self._planner.stream(parent, lambda: 0).plan
        limits = (self._options.max_delete_ratio, keys.spec.contract.schema.get("x-max-delete-ratio", 1))
        approved = self._options.max_delete_ratio >= 1
        return reconciled(plan, keys, self._arrived(parent), 1.0 if approved else min(limits))

    def _counts(self, name: str) -> Counts:
        return self._committer.totals.get(name, Counts()) if self._committer else Counts()

    def _arrived(self, name: str) -> int:
        """Rows that this load has inserted and not removed again."""
        counts = self._counts(name)
        return max(0, counts.inserted - counts.deleted)

    def _doubt(self, name: str, plan: TablePlan, activation: Activation, version: int) -> str | None:
        """Why a refresh may not have brought all rows; None when it has."""
        overwritten = plan.fixed_version is not None
        if overwritten and name in self._resumed:
            return "the tap started from a bookmark and sent a part; run it without state"
        activated = activation.after_rows and not overwritten
        if not (activated or self._options.trust_eof or self._scans().get(name) == "complete"):
            return "nothing proves that the refresh was complete (see trust_eof)"
        if not overwritten and activation.seen and (None in activation.seen or version not in activation.seen):
            return "records came without the version that was activated"
        return "records were refused" if self._counts(name).quarantined else None

    # guards and reports ----------------------------------------------------------------------------------------------

    def _check_gap(self, state: bytes) -> None:
        """Hold a run that starts from a state beyond what this database holds."""
        stored: list[str | None] = []
        self._retrying(lambda: stored.append(self._books.stored_state()))
        verdict = compare_states(state, stored[0])
        if verdict == "ahead" and self._options.on_gap != "accept":
            text = (
                "the run starts from a state that is ahead of what this database holds for pipeline"
                f" '{self._options.pipeline}': rows between them would be lost; give the tap the stored state"
                " (monitor-resilient state show), or approve once with TARGET_RESILIENT_ON_GAP=accept"
            )
            if self._options.on_gap == "fail":
                raise HeldByGuardError(text)
            logger.warning("%s", text)
        elif verdict == "behind":
            logger.info("%s", "the run replays from a state behind the stored one; unchanged rows stay untouched")
        elif verdict == "different":
            logger.warning("%s", "the starting state is not the one that this pipeline committed last")

    def _status(self) -> str:
        """`complete` needs the tap's end marker with every scan complete."""
        verdicts = set(self._scans().values())
        if verdicts and verdicts <= {"complete"}:
            return "complete"
        return "incomplete" if "incomplete" in verdicts else "unproven"

    def _scans(self) -> dict[str, Any]:
        """Stream → verdict of its scan, from the tap's end marker; empty without one."""
        state = json.loads(self._last_state) if self._last_state else {}
        marker = state.get("resilient") if isinstance(state, dict) else None
        scans = marker.get("scans") if isinstance(marker, dict) else None
        found = scans.items() if isinstance(scans, dict) else ()
        return {name: scan.get("verdict") for name, scan in found if isinstance(scan, dict)}

    def _report(self) -> None:
        seconds = self._clock() - self._started
        total = Counts()
        for stream, counts in (self._committer.totals if self._committer else {}).items():
            metric(logger, "counter", "record_count", counts.received, {"stream": stream})
            total.add(counts)
        what = "validated, nothing written" if self._options.dry_run else "loaded"
        fields = dict(zip(COUNTS, total.values(), strict=True)) if self._committer else {
            "received": self._received, "quarantined": self._refused}  # fmt: skip
        rate = int(self._received / max(seconds, 1e-9))
        logger.info(facts(what, status=self._status(), **fields, seconds=seconds, rows_per_second=rate))
        if total.quarantined:
            kept, see = f"{self._backend.meta_schema}.quarantine", "monitor-resilient quarantine list"
            logger.warning(facts("refused records are kept, with field and reason", table=kept, see=see))

    def _retrying(self, action: Callable[[], object]) -> None:
        """Run `action` again while the infrastructure fails."""
        patience = Patience(self._options.retry_max_elapsed, stop=self._stop)
        while True:
            try:
                action()
            except InfrastructureError as error:
                patience.wait(error)
            except MissingError as error:
                raise (self._committer.explained(error) if self._committer else error) from None
            else:
                return


def _fits(version: int | None) -> bool:
    """Whether a bigint holds it."""
    return version is None or -(2**63) <= version < 2**63


_HANDLERS: dict[str, Callable[[Load, Control], None]] = {
    "SCHEMA": Load._on_schema,
    "STATE": Load._on_state,
    "ACTIVATE_VERSION": Load._on_activate_version,
    "BATCH": Load._on_batch,
}
