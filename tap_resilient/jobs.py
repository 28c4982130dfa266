"""Asynchronous jobs as configured (`type: async_job`), and what the state keeps of the ones that run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient_core.errors import Fault
from resilient_core.settings import Setting
from tap_resilient.blocks import read_block
from tap_resilient.paths import Path
from tap_resilient.request_template import RequestTemplate
from tap_resilient.selector import parse_path

_PATH = Setting("path", "string", "Path joined to base_url", required=True)
_PARAMS = Setting("params", "object", "Query parameters", {})
_HEADERS = Setting("headers", "object", "Headers beyond the client's and the stream's", {})
_JSON = Setting("json", "any", "JSON body of a POST")
_READ = Setting("method", "options", "HTTP method", "GET", ("GET", "POST"))

CREATE_SETTINGS = (
    _PATH,
    Setting("method", "options", "HTTP method", "POST", ("POST", "PUT", "GET")),
    _PARAMS,
    _HEADERS,
    Setting("json", "any", "JSON body; start_param and end_param then go into it"),
    Setting("id_path", "string", "JMESPath of the job's id in the answer: what {job.id} stands for", "id"),
    Setting(
        "idempotency_header",
        "string",
        "Header for a key that is the job's own, also after a crash; without it a lost answer is not asked for again",
    ),
)
POLL_SETTINGS = (
    _PATH,
    _READ,
    _PARAMS,
    _HEADERS,
    _JSON,
    Setting("status_path", "string", "JMESPath of the job's status", "status"),
    Setting("done", "array", "Statuses of a job whose result is there", required=True),
    Setting("failed", "array", "Statuses of a job that failed or expired: it is created anew, once", []),
    Setting("running", "array", "Statuses of a job that is under way; any other one by default"),
    Setting("rows_path", "string", "JMESPath of the number of rows that the finished job declares"),
    Setting("interval", "duration", "Wait before the second look; doubles with each further one", "2s"),
    Setting("max_interval", "duration", "Longest wait between two looks, if Retry-After asks for none longer", "1m"),
    Setting("timeout", "duration", "How long one run waits for a job; then it stops (75), and the next waits on", "1h"),
)
DOWNLOAD_SETTINGS = (
    Setting("path", "string", "Path joined to base_url"),
    Setting("urls_path", "string", "JMESPath of the result's URL, or the list of them, in the last look's answer"),
    _READ,
    _PARAMS,
    _HEADERS,
    _JSON,
)
CANCEL_SETTINGS = (
    _PATH,
    Setting("method", "options", "HTTP method", "DELETE", ("DELETE", "POST", "PUT")),
    _PARAMS,
    _HEADERS,
    _JSON,
)
JOB_SETTINGS = (
    Setting("create", "object", "The request that creates the job", required=True),
    Setting("poll", "object", "The request that looks after it", required=True),
    Setting("download", "object", "The request for its result", required=True),
    Setting(
        "cancel", "object", "Sent when a signal ends the run; without it the job goes on, and the next run waits for it"
    ),
)
"""What a stream of `type: async_job` has instead of path, method, params and json."""

BLOCKS = {
    "create": CREATE_SETTINGS,
    "poll": POLL_SETTINGS,
    "download": DOWNLOAD_SETTINGS,
    "cancel": CANCEL_SETTINGS,
}


@dataclass(frozen=True)
class Polling:
    """The `poll:` block. Times are seconds. `running` None means: every status that is not listed."""

    request: RequestTemplate
    status: Path
    done: frozenset[str]
    failed: frozenset[str] = frozenset()
    running: frozenset[str] | None = None
    rows: Path | None = None
    interval: float = 2.0
    max_interval: float = 60.0
    timeout: float = 3600.0


@dataclass(frozen=True)
class JobSpec:
    """Create, poll, download, cancel. `urls` None means that the result is at the download's own path."""

    create: RequestTemplate
    job_id: Path
    poll: Polling
    download: RequestTemplate
    urls: Path | None = None
    idempotency_header: str | None = None
    cancel: RequestTemplate | None = None

    def templates(self) -> Mapping[str, RequestTemplate]:
        """The requests by the name of their block."""
        found = {"create": self.create, "poll": self.poll.request, "download": self.download, "cancel": self.cancel}
        return {name: template for name, template in found.items() if template}

    @classmethod
    def parse(cls, stream: Mapping[str, Any], where: str) -> tuple[JobSpec, list[Fault]]:
        """The job of a stream's four blocks, with every fault found."""
        faults: list[Fault] = []
        blocks = {name: _block(name, stream[name], f"{where}.{name}", faults) for name in BLOCKS}
        create, poll, download, cancel = blocks.values()
        if stream["download"] is not None and bool(download["path"]) == bool(download["urls_path"]):
            faults.append(Fault(f"{where}.download", "needs path or urls_path, one of them"))
        common = stream["headers"]
        spec = cls(
            create=_template(create, common, read_only=False),
            job_id=_path(create, "id_path", f"{where}.create", faults) or Path("id"),
            poll=_polling(poll, common, f"{where}.poll", faults),
            download=_template(download, common),
            urls=_path(download, "urls_path", f"{where}.download", faults),
            idempotency_header=create["idempotency_header"],
            cancel=_template(cancel, common, read_only=False) if stream["cancel"] else None,
        )
        return spec, faults


class JobBook:
    """The jobs of one stream that run on the server, in the state at `resilient.jobs.<stream>`.

    Each is `{context, start, end, bookmark, key, id}`. What is put is written out at once: no crash forgets a job.
    """

    def __init__(self, state: dict[str, Any], stream: str, write: Callable[[], None]) -> None:
        self._state = state
        self._stream = stream
        self._write = write

    def get(self, context: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The job of a partition; None if none runs."""
        return next((entry for entry in self._entries() if entry["context"] == dict(context)), None)

    def put(self, context: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        """Remember the job of a partition, and write the state."""
        jobs = self._state.setdefault("resilient", {}).setdefault("jobs", {})
        jobs[self._stream] = [*self._others(context), {"context": dict(context), **entry}]
        self._write()

    def drop(self, context: Mapping[str, Any]) -> None:
        """Forget the job of a partition; the next STATE goes without it."""
        others, jobs = self._others(context), self._state.get("resilient", {}).get("jobs", {})
        jobs.pop(self._stream, None)
        if others:
            jobs[self._stream] = others
        elif not jobs:
            self._state.get("resilient", {}).pop("jobs", None)

    def _entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._state.get("resilient", {}).get("jobs", {}).get(self._stream, [])
        return found

    def _others(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [entry for entry in self._entries() if entry["context"] != dict(context)]


@dataclass(frozen=True)
class JobPlace:
    """Where the state keeps the job of one window of one partition. `facts` are the window and the bookmark."""

    book: JobBook
    context: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def get(self) -> Mapping[str, Any]:
        """What is known of the job; empty if none runs."""
        return self.book.get(self.context) or {}

    def put(self, **known: Any) -> None:
        """Remember the job, and write the state."""
        self.book.put(self.context, {**self.facts, **known})

    def drop(self) -> None:
        """Forget the job."""
        self.book.drop(self.context)


def job_state_faults(jobs: Any) -> list[Fault]:
    """The faults of `resilient.jobs` in a state that came in."""
    where = "--state: resilient.jobs"
    if not isinstance(jobs, Mapping):
        return [Fault(where, "must be an object")]
    return [
        Fault(f"{where}.{stream}", "must be a list of {context, …}")
        for stream, entries in jobs.items()
        if not (isinstance(entries, list) and all(isinstance(e, Mapping) and "context" in e for e in entries))
    ]


def _block(name: str, value: Any, where: str, faults: list[Fault]) -> dict[str, Any]:
    """One of the four blocks; an absent one has all its defaults, and no faults of its own."""
    block, found = read_block(BLOCKS[name], value, where)
    faults += found if value is not None else []
    if block["json"] is not None and block["method"] in {"GET", "DELETE"}:
        faults.append(Fault(f"{where}.json", "needs another method, such as POST"))
    return block


def _path(block: Mapping[str, Any], name: str, where: str, faults: list[Fault]) -> Path | None:
    path, found = parse_path(block[name], f"{where}.{name}")
    faults += found
    return path


def _template(block: Mapping[str, Any], common: Mapping[str, Any], *, read_only: bool = True) -> RequestTemplate:
    headers = {**common, **block["headers"]}
    return RequestTemplate(
        block["path"] or "", block["method"], block["params"], headers, block["json"], read_only=read_only
    )


def _polling(block: Mapping[str, Any], common: Mapping[str, Any], where: str, faults: list[Fault]) -> Polling:
    return Polling(
        request=_template(block, common),
        status=_path(block, "status_path", where, faults) or Path("status"),
        done=_words(block["done"] or ()),
        failed=_words(block["failed"]),
        running=None if block["running"] is None else _words(block["running"]),
        rows=_path(block, "rows_path", where, faults),
        interval=block["interval"],
        max_interval=max(block["interval"], block["max_interval"]),
        timeout=block["timeout"],
    )


def _words(statuses: Iterable[Any]) -> frozenset[str]:
    return frozenset(map(str, statuses))
