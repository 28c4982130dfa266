"""The loader thread: commits one epoch while the next is read, retries what the database's weather broke."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for

from resilient_core.errors import ResilientError, StoppedError, UnavailableError
from resilient_core.telemetry import facts
from target_resilient.backends import Backend, CommitUnknownError, DataError, InfrastructureError, Lease, MissingError
from target_resilient.batch import StreamBatch
from target_resilient.checkpoints import reach
from target_resilient.epoch import Epoch, Owner, commit_epoch, follow_on, hold_fence, took_effect
from target_resilient.ledger import Counts
from target_resilient.merge import merge
from target_resilient.validate import violation

RETRY_BASE_SECONDS = 0.5
RETRY_CAP_SECONDS = 30.0

logger = logging.getLogger("target-resilient")

Write = Callable[[Backend, Epoch, Owner], None]
"""Commits one epoch whole, once."""


class Patience:
    """Full-jitter backoff (AWS Architecture Blog, 2015) until `max_elapsed` seconds have passed; a stop ends a wait."""

    def __init__(
        self,
        max_elapsed: float,
        *,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._deadline = clock() + max_elapsed
        self._attempt = 0
        self._stop = stop
        self._clock = clock
        self._uniform = uniform

    def wait(self, error: Exception) -> None:
        """Wait before the next attempt. Raises UnavailableError (69) once the time is spent, StoppedError on a stop."""
        ceiling = min(RETRY_CAP_SECONDS, RETRY_BASE_SECONDS * 2**self._attempt)
        seconds = self._uniform(0.0, ceiling)
        self._attempt += 1
        if self._clock() + seconds > self._deadline:
            raise UnavailableError(f"{error}; gave up after {self._attempt} attempts") from None
        logger.warning(facts("retry", attempt=self._attempt, wait_seconds=seconds, reason=str(error)))
        if self._stop.wait(seconds):
            raise StoppedError("stopped while waiting for the database") from None


class Committer:
    """Commits epochs in order and acknowledges each STATE only after its commit."""

    def __init__(
        self,
        backend: Backend,
        owner: Owner,
        lease: Lease,
        acknowledge: Callable[[bytes], None],
        *,
        max_elapsed: float,
        stop: threading.Event,
    ) -> None:
        self._backend = backend
        self.owner = owner
        self._lease = lease
        self._acknowledge = acknowledge
        self._max_elapsed = max_elapsed
        self._stop = stop
        self.totals: dict[str, Counts] = {}
        self._committed = 0

    def commit(self, epoch: Epoch, write: Write) -> None:
        """Commit an epoch, whatever it takes within the retry budget; then write its STATE to stdout."""
        self._until_committed(epoch, write)
        self._committed = epoch.number
        for stream, counts in epoch.outcome.items():
            self.totals.setdefault(stream, Counts()).add(counts)
        reach("epoch.committed")
        if epoch.state is not None:
            self._acknowledge(epoch.state)
            reach("epoch.acknowledged")

    def _until_committed(self, epoch: Epoch, write: Write) -> None:
        patience = Patience(self._max_elapsed, stop=self._stop)
        unknown = False
        while True:
            try:
                self._lease.keep()
                if not (unknown and took_effect(self._backend, epoch, self.owner)):
                    unknown = False
                    self._write(epoch, write)
            except CommitUnknownError as error:
                unknown = True
                patience.wait(error)
            except InfrastructureError as error:
                patience.wait(error)
            else:
                return

    def _write(self, epoch: Epoch, write: Write) -> None:
        """Write it, without the rows that the database refuses."""
        while True:
            try:
                return write(self._backend, epoch, self.owner)
            except MissingError as error:
                raise self.explained(error) from None
            except DataError as error:
                self._isolate(epoch, error)

    def explained(self, error: MissingError) -> UnavailableError:
        """What a missing table means. Raises HeldByGuardError when the whole database is not the one that it was."""
        with self._backend.transaction() as session:
            hold_fence(session, self._backend, self.owner)
            follow_on(session, self.owner, self._committed)
        return UnavailableError(
            f"{error}; somebody dropped or changed a table while it was being loaded, and the epoch was not"
            " committed; run again"
        )

    def _isolate(self, epoch: Epoch, error: DataError) -> None:
        """Find the rows that the database refuses by halving, and move them to the quarantine."""
        for search in (self._refused, self._refused_beside_others):
            found = [(batch, *one) for batch in epoch.batches.values() for one in search(batch, _live_places(batch))]
            for batch, place, cause in found:
                rule = f"SQLSTATE {cause.sqlstate}" if cause.sqlstate[0].isdigit() else cause.sqlstate
                found_rule = violation("", rule, cause.column, {})
                batch.drop(place, {**found_rule, "message": f"the database refused it: {rule}"})
            if found:
                return
        raise ResilientError(f"the database refused the epoch ({error.sqlstate}) but no row of it")

    def _refused_beside_others(self, batch: StreamBatch, places: list[int]) -> list[tuple[int, DataError]]:
        """The first row that is refused only because of the rows before it (it breaks a UNIQUE), if any."""
        cause = self._trial(batch, places)
        accepted, refused = 0, len(places)
        while cause is not None and refused - accepted > 1:
            middle = (accepted + refused) // 2
            if found := self._trial(batch, places[:middle]):
                refused, cause = middle, found
            else:
                accepted = middle
        return [(places[refused - 1], cause)] if cause is not None else []

    def _refused(self, batch: StreamBatch, places: list[int]) -> list[tuple[int, DataError]]:
        cause = self._trial(batch, places)
        if cause is None:
            return []
        if len(places) == 1:
            return [(places[0], cause)]
        middle = len(places) // 2
        return self._refused(batch, places[:middle]) + self._refused(batch, places[middle:])

    def _trial(self, batch: StreamBatch, places: list[int]) -> DataError | None:
        """Stage and merge some rows of a batch and roll back; the error, if the database refuses them."""
        try:
            with self._backend.transaction() as session:
                lines = [row for place in places if (row := batch.rows[place]) is not None]
                name, _ = session.stage(batch.plan.table, batch.plan.column_names, lines)
                session.run(merge(batch.plan, name))
                raise _RollBackError
        except _RollBackError:
            return None
        except DataError as error:
            return error


def _live_places(batch: StreamBatch) -> list[int]:
    return [place for place, row in enumerate(batch.rows) if row is not None]


class _RollBackError(Exception):
    """Ends a trial."""


class Loader:
    """Commits one epoch at a time in a thread; at most one is under way while the next is built.

    The threads are daemons: one that a dead network holds must not keep a load that was told to end.
    """

    def __init__(self, commit: Callable[[Epoch, Write], None]) -> None:
        self._commit = commit
        self._pending: Future[None] | None = None

    def submit(self, epoch: Epoch, write: Write = commit_epoch) -> None:
        """Hand an epoch over once the one before is committed. Raises what that one raised."""
        self.drain()
        self._pending = Future()
        threading.Thread(target=self._run, args=(epoch, write, self._pending), name="loader", daemon=True).start()

    def drain(self) -> None:
        """Wait until nothing is under way. Raises what the last commit raised."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self, seconds: float | None = None) -> bool:
        """Wait for the commit that is under way, whatever comes of it; False when it is not over after `seconds`."""
        return self._pending is None or not wait_for([self._pending], seconds).not_done

    def _run(self, epoch: Epoch, write: Write, result: Future[None]) -> None:
        try:
            self._commit(epoch, write)
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(None)
