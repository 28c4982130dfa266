"""One scan of an asynchronous job: created or found in the state, waited for, and its results read like any pages."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

from resilient_core.errors import ResilientError, StoppedError, TerminatedError, UnavailableError
from resilient_core.secrets import Resolver
from resilient_core.telemetry import facts
from tap_resilient.client import Client
from tap_resilient.completeness import SEVERITY, Verdict
from tap_resilient.exchange import ActionRequested, BadAnswerError, RequestRefusedError, Response
from tap_resilient.fetcher import Fetcher, Ground
from tap_resilient.hints import read_hints
from tap_resilient.jobs import JobPlace, JobSpec
from tap_resilient.paginators import Single
from tap_resilient.paths import MISSING, Path
from tap_resilient.request_template import RequestTemplate
from tap_resilient.scan import Scan
from tap_resilient.selector import Row

CANCEL_SECONDS = 5.0
"""How long a run that a signal ends waits for the cancelling of its job."""

GONE = frozenset({404, 410})

log = logging.getLogger("tap-resilient")


class _JobLostError(Exception):
    """The job came to nothing: it has to be created anew."""


class JobScan:
    """Reads the rows of one job over one ground. `fetcher` is for its results, `place` is where the state keeps it.

    `clock` (seconds, monotonic) and `sleep` are replaced in tests.
    """

    def __init__(
        self,
        job: JobSpec,
        fetcher: Fetcher,
        client: Client,
        resolver: Resolver,
        ground: Ground,
        *,
        place: JobPlace,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spec = fetcher.spec
        self._fetcher = fetcher
        self._job = job
        self._client = client
        self._resolver = resolver
        self._ground = ground
        self._place = place
        self._clock = clock
        self._sleep = sleep
        self._verdicts: list[tuple[Verdict, str]] = []
        self._declared: int | None = None
        self._rows = 0
        self.stopped = False
        self.overlaps = 0

    def pages(self) -> Iterator[list[Row]]:
        """The rows of the job's results. A job that fails or expires is created anew, once.

        Raises what the client raises, StoppedError (75) for a job that takes longer than `poll.timeout`, and
        ActionRequested for `split_window`. The state keeps the job as long as it may still be of use.
        """
        try:
            try:
                yield from self._attempt()
            except _JobLostError as lost:
                log.warning(facts("job is created anew", stream=self._spec.name, reason=str(lost)))
                yield from self._attempt()
        except _JobLostError as lost:
            raise UnavailableError(f"stream '{self._spec.name}': {lost}, twice; see the source's own log") from None
        except ActionRequested:
            self._place.drop()
            raise
        except TerminatedError:
            self._cancel()
            raise

    def verdict(self) -> tuple[Verdict, str]:
        """The worst verdict of the job's results; incomplete if the job declared more rows than came."""
        if self._declared is not None and self._rows < self._declared:
            return "incomplete", f"the job declared {self._declared} rows, {self._rows} came"
        nothing: tuple[Verdict, str] = ("complete", "the job has no result")
        return max(self._verdicts, key=lambda found: SEVERITY.index(found[0]), default=nothing)

    @property
    def drained(self) -> bool:
        """Whether the job was read to its end, with nothing left out."""
        return not self.stopped and self.verdict()[0] != "incomplete"

    def _attempt(self) -> Iterator[list[Row]]:
        self._verdicts, self._declared, self._rows = [], None, 0
        job_id = self._begun()
        try:
            answer = self._finished(job_id)
            for url in self._result_urls(answer):
                yield from self._result(url)
        except RequestRefusedError as refusal:
            if refusal.status not in GONE:
                raise
            self._lose(f"the job or its result is gone ({refusal.status})")
        self._place.drop()

    def _lose(self, why: str) -> None:
        self._place.drop()
        raise _JobLostError(why)

    # Create

    def _begun(self) -> Any:
        """The id of the job that the state knows, else of a new one."""
        known = self._place.get()
        if known.get("id") is None:
            return self._create(known.get("key"))
        log.info(facts("job of an earlier run is waited for", stream=self._spec.name))
        return known["id"]

    def _create(self, key: str | None) -> Any:
        """Create the job. Its key is in the state before it is sent: after a crash the same job is asked for again."""
        template, header = self._job.create, self._job.idempotency_header
        if header:
            key = key or str(uuid.uuid4())
            self._place.put(key=key)
            template = replace(template, headers={**template.headers, header: key})
        answer = self._send(template, self._ground, _needs(self._job.job_id, "job id"))
        job_id = self._job.job_id.get(answer.body)
        self._place.put(key=key, id=job_id)
        return job_id

    # Poll

    def _finished(self, job_id: Any) -> Response:
        """The answer that says that the job is done."""
        self._ground = replace(self._ground, scope=replace(self._ground.scope, job={"id": job_id}))
        poll, wait = self._job.poll, self._job.poll.interval
        deadline = self._clock() + poll.timeout
        while True:
            answer = self._send(poll.request, replace(self._ground, params={}), self._check_status)
            status = self._status(answer)
            if status in poll.done:
                self._declared = _number(poll.rows, answer)
                return answer
            if status in poll.failed:
                self._lose("the job failed or expired")
            self._rest(max(wait, read_hints(answer.headers, time.time()).retry_after or 0.0), deadline)
            wait = min(wait * 2, poll.max_interval)

    def _rest(self, wait: float, deadline: float) -> None:
        if self._clock() + wait > deadline:
            raise StoppedError(
                f"stream '{self._spec.name}': the job still runs after poll.timeout ({self._job.poll.timeout:g} s);"
                " it is kept in the state, and the next run goes on waiting for it"
            )
        self._sleep(wait)

    def _status(self, answer: Response) -> str:
        return str(self._job.poll.status.get(answer.body))

    def _check_status(self, answer: Response) -> None:
        poll = self._job.poll
        _needs(poll.status, "job status")(answer)
        if poll.running is not None and self._status(answer) not in poll.running | poll.done | poll.failed:
            raise BadAnswerError("the job has a status that is not in poll.done, poll.failed or poll.running")

    # Download

    def _result_urls(self, answer: Response) -> list[str | None]:
        """Where the results are; None is the download's own path."""
        if self._job.urls is None:
            return [None]
        found = self._job.urls.get(answer.body)
        if found is None and self._declared != 0:
            self._lose("the job is done, but names no result")
        urls = found if isinstance(found, list) else [found]
        return [urljoin(answer.url, url) for url in urls if isinstance(url, str)]

    def _result(self, url: str | None) -> Iterator[list[Row]]:
        scan = Scan(self._fetcher, replace(self._ground, params={}, url=url))
        for rows in scan.pages():
            self._rows += len(rows)
            yield rows
        if isinstance(self._spec.paginator, Single):
            scan.seen.announce("the job is done")
        self.stopped |= scan.stopped
        self.overlaps += scan.overlaps
        self._verdicts.append(scan.verdict())

    def _send(self, template: RequestTemplate, ground: Ground, check: Callable[[Response], None]) -> Response:
        return self._client.send(
            lambda: template.filled(ground.scope, self._resolver, ground.params),
            check=check,
            handlers=self._spec.error_handlers,
        )

    # Cancel

    def _cancel(self) -> None:
        """Ask the source to give up the job, for at most CANCEL_SECONDS; without `cancel` it stays in the state."""
        cancel = self._job.cancel
        if cancel is None or not self._ground.scope.job:
            return
        self._place.drop()
        sender = threading.Thread(target=self._send_cancel, args=(cancel,), daemon=True)
        sender.start()
        sender.join(CANCEL_SECONDS)

    def _send_cancel(self, cancel: RequestTemplate) -> None:
        try:
            self._send(cancel, replace(self._ground, params={}), lambda _: None)
        except (ResilientError, ActionRequested) as error:
            log.warning(facts("job could not be cancelled", stream=self._spec.name, problem=str(error)))


def _needs(path: Path, what: str) -> Callable[[Response], None]:
    def check(answer: Response) -> None:
        if path.find(answer.body) in (MISSING, None):
            raise BadAnswerError(f"the answer has no {what} at '{path.expression}'")

    return check


def _number(path: Path | None, answer: Response) -> int | None:
    found = path.get(answer.body) if path else None
    return int(found) if isinstance(found, int | str) and str(found).isdecimal() else None
