"""The source file: read, checked for all faults at once, and turned into values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeVar

import yaml

from resilient_core.contract import Contract, read_contract
from resilient_core.errors import ConfigError, Fault
from resilient_core.secrets import ref_faults
from resilient_core.settings import Setting, unknown_name
from tap_resilient.blocks import read_block
from tap_resilient.client_config import ClientConfig
from tap_resilient.completeness import Announcements
from tap_resilient.deletes import Reconcile, SoftDeletes, parse_deletes
from tap_resilient.fields import FieldSpec
from tap_resilient.handlers import ErrorHandler, parse_handlers
from tap_resilient.jobs import JOB_SETTINGS, JobSpec
from tap_resilient.paginators import Single, parse_paginator
from tap_resilient.paging import Paginator
from tap_resilient.paths import Path
from tap_resilient.selector import RecordsSelector
from tap_resilient.templates import substitute_config, template_faults
from tap_resilient.watermark import Incremental

EXTRACTION_LOG = "extraction_log"
DECODERS = ("json", "jsonl", "csv", "xml")

SOURCE_SETTINGS = (
    Setting("version", "integer", "Version of the source file's format", 1),
    Setting("client", "object", "How the API is reached: base_url, auth, rate limit, retries, …", required=True),
    Setting("defaults", "object", "Merged deeply into every stream", {}),
    Setting("streams", "array", "The streams", required=True),
    Setting("start_date", "string", "Lower bound of the first run of streams that have no initial_value"),
    Setting(
        "extraction_log", "boolean", "Emit the stream `extraction_log`: one record a stream and run", default=False
    ),
)
"""The keys of a source file."""

STREAM_SETTINGS = (
    Setting("name", "string", "Name of the stream", required=True),
    Setting("type", "options", "Kind of the stream", "rest", ("rest", "async_job")),
    Setting("path", "string", "Path joined to base_url", required=True),
    Setting("method", "options", "HTTP method; POST for reads that need a body", "GET", ("GET", "POST")),
    Setting("params", "object", "Query parameters", {}),
    Setting("headers", "object", "Headers beyond the client's", {}),
    Setting("json", "any", "JSON body of a POST read; paging and start parameters then go into it"),
    Setting("decoder", "options", "Format of the body, also in gzip or in a zip of one file", "json", DECODERS),
    Setting("records", "object", "Where the records are", {}),
    Setting("paginator", "object", "How the API goes from page to page"),
    Setting("primary_keys", "array", "Fields that identify a record", []),
    Setting("incremental", "object", "Read only what is new"),
    Setting("partitions", "array", "One scan for each of these sets of values"),
    Setting("parent", "object", "One scan for each record of another stream"),
    Setting("fields", "object", "The stable model: fields by name", {}),
    Setting("schema", "object", "The contract, or `mode: infer`", {}),
    Setting("deletes", "object", "How deleted records are found"),
    Setting("error_handler", "array", "Predicates over answers and what to do", []),
    Setting("probe", "object", "The canary request"),
)
"""The keys of a stream."""

ASYNC_JOB_SETTINGS = (
    *(setting for setting in STREAM_SETTINGS if setting.name not in {"path", "method", "params", "json"}),
    *JOB_SETTINGS,
)
"""The keys of a stream of `type: async_job`."""

PARENT_SETTINGS = (
    Setting("stream", "string", "Name of the parent stream", required=True),
    Setting("include", "array", "Fields of the parent's records that templates and the child's records get", []),
    Setting("incremental_dependency", "boolean", "Only parents that are new or changed are asked", default=False),
    Setting("state", "options", "One bookmark for each parent, or for all", "partition", ("partition", "global")),
)

SCHEMA_SETTINGS = (
    Setting("contract", "string", "Path of the contract, relative to the source file"),
    Setting("mode", "options", "infer: from the records", options=("infer",)),
)

PROBE_SETTINGS = (
    Setting("path", "string", "Path joined to base_url", required=True),
    Setting("method", "options", "HTTP method", "GET", ("GET", "POST", "HEAD")),
    Setting("params", "object", "Query parameters", {}),
)

T = TypeVar("T")


@dataclass(frozen=True)
class ParentLink:
    """One scan a parent's record. `include` fields are named by `{parent.x}` and added to the child's records."""

    stream: str
    include: tuple[str, ...]
    incremental_dependency: bool = False
    global_state: bool = False


@dataclass(frozen=True)
class ProbeSpec:
    """The canary request of a stream."""

    path: str
    method: str = "GET"
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamSpec:
    """One stream as configured. `contract` None means that the schema is inferred."""

    name: str
    path: str
    method: str = "GET"
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    decoder: str = "json"
    records: RecordsSelector = field(default_factory=lambda: RecordsSelector(Path("@")))
    paginator: Paginator = field(default_factory=lambda: Single(Announcements()))
    primary_keys: tuple[str, ...] = ()
    incremental: Incremental | None = None
    partitions: tuple[Mapping[str, Any], ...] = ()
    parent: ParentLink | None = None
    fields: tuple[FieldSpec, ...] = ()
    contract: Contract | None = None
    deletes: SoftDeletes | Reconcile | None = None
    error_handlers: tuple[ErrorHandler, ...] = ()
    probe: ProbeSpec | None = None
    job: JobSpec | None = None

    def of_pages(self) -> StreamSpec:
        """The stream as its pages are asked for: the download of a job, else itself."""
        if self.job is None:
            return self
        asked = self.job.download
        return replace(
            self, path=asked.path, method=asked.method, params=asked.params, headers=asked.headers, json=asked.json
        )


@dataclass(frozen=True)
class SourceSpec:
    """A whole source. `fingerprint` is 16 hex digits over its origin and streams, without credentials."""

    client: ClientConfig
    streams: tuple[StreamSpec, ...]
    extraction_log: bool
    fingerprint: str


def load_source(config: Mapping[str, Any]) -> SourceSpec:
    """The source of a tap's configuration: its own keys, or the file that `source` names, with `config` variables.

    Raises ConfigError with every fault of both.
    """
    tree, directory, prefix = _source_tree(config)
    faults = ref_faults("", tree)
    filled = substitute_config(tree, config.get("config") or {}, "", faults)
    spec, more = _Reader(directory).source(filled)
    if faults or more:
        raise ConfigError([Fault(prefix + fault.where, fault.message) for fault in faults + more])
    return spec


def _source_tree(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], FilePath, str]:
    """The keys of the source, the directory its paths are relative to, and what its faults are prefixed with."""
    names = [setting.name for setting in SOURCE_SETTINGS]
    inline = {name: config[name] for name in names if config.get(name) is not None}
    if not config.get("source"):
        return inline, FilePath(), ""
    common: dict[str, Any] = {name: inline.pop(name) for name in ("start_date", "extraction_log") if name in inline}
    if inline:
        raise ConfigError([Fault(name, "stands beside `source`; give one of them") for name in inline])
    path = FilePath(config["source"])
    return {**read_source_file(path), **common}, path.parent, f"{path.name}: "


def read_source_file(path: FilePath) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. Raises ConfigError naming the file and the line."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([Fault(str(path), f"source file cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Fault(str(path), "source file is not UTF-8")]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise ConfigError([Fault(str(path), f"source file is not valid YAML{line}")]) from None
    if not isinstance(tree, dict):
        raise ConfigError([Fault(str(path), "source file must hold one mapping")])
    return tree


class _Reader:
    """Turns a source tree into values and collects what is wrong with it."""

    def __init__(self, directory: FilePath) -> None:
        self._directory = directory
        self._faults: list[Fault] = []
        self._start_date: Any = None

    def source(self, tree: Mapping[str, Any]) -> tuple[SourceSpec, list[Fault]]:
        """The source with every fault found."""
        block, faults = read_block(SOURCE_SETTINGS, tree, "")
        self._faults += [Fault(fault.where.lstrip("."), fault.message) for fault in faults]
        if block["version"] != 1:
            self._fault("version", "must be 1")
        self._start_date = block["start_date"]
        client = self._take(ClientConfig.parse, block["client"] or {}, "client") if block["client"] else None
        streams = self._streams(block["streams"] or [], block["defaults"])
        if block["extraction_log"] and any(stream.name == EXTRACTION_LOG for stream in streams):
            self._fault("extraction_log", "cannot be true beside a stream of that name")
        fingerprint = _fingerprint(client, block["streams"])
        spec = SourceSpec(client or ClientConfig(""), streams, block["extraction_log"], fingerprint)
        return spec, self._faults

    def _take(self, parse: Callable[[Any, str], tuple[T, list[Fault]]], value: Any, where: str) -> T:
        parsed, faults = parse(value, where)
        self._faults += faults
        return parsed

    def _fault(self, where: str, message: str) -> None:
        self._faults.append(Fault(where, message))

    def _streams(self, trees: Sequence[Any], defaults: Mapping[str, Any]) -> tuple[StreamSpec, ...]:
        if not trees:
            self._fault("streams", "must hold at least one stream")
        merged = [deep_merge(defaults, tree) if isinstance(tree, Mapping) else tree for tree in trees]
        specs = [self._stream(tree, f"streams[{index}]") for index, tree in enumerate(merged)]
        self._check_names(specs)
        return tuple(specs)

    def _stream(self, tree: Any, where: str) -> StreamSpec:
        is_job = isinstance(tree, Mapping) and tree.get("type") == "async_job"
        settings = ASYNC_JOB_SETTINGS if is_job else STREAM_SETTINGS
        block = self._take(lambda value, at: read_block(settings, value, at), tree, where)
        spec = StreamSpec(
            name=block["name"] or "",
            path=block.get("path") or "",
            method=block.get("method", "GET"),
            params=block.get("params", {}),
            headers=block["headers"],
            json=block.get("json"),
            decoder=block["decoder"],
            records=self._take(RecordsSelector.parse, block["records"], f"{where}.records"),
            paginator=self._take(parse_paginator, block["paginator"], f"{where}.paginator"),
            primary_keys=self._names(block["primary_keys"], f"{where}.primary_keys"),
            incremental=self._incremental(block["incremental"], f"{where}.incremental"),
            partitions=self._partitions(block["partitions"], f"{where}.partitions"),
            parent=self._parent(block["parent"], f"{where}.parent"),
            fields=self._fields(block["fields"], f"{where}.fields"),
            contract=self._contract(block["schema"], f"{where}.schema"),
            deletes=self._take(parse_deletes, block["deletes"], f"{where}.deletes"),
            error_handlers=self._take(parse_handlers, block["error_handler"], f"{where}.error_handler"),
            probe=self._probe(block["probe"], f"{where}.probe"),
            job=self._take(JobSpec.parse, block, where) if is_job else None,
        )
        self._check_stream(spec, where)
        return spec

    def _names(self, value: Any, where: str) -> tuple[str, ...]:
        if all(isinstance(name, str) and name for name in value):
            return tuple(value)
        self._fault(where, "must be a list of field names")
        return ()

    def _incremental(self, value: Any, where: str) -> Incremental | None:
        if value is None:
            return None
        return self._take(lambda v, at: Incremental.parse(v, at, self._start_date), value, where)

    def _partitions(self, value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
        if value is None:
            return ()
        if value and all(isinstance(item, Mapping) for item in value):
            return tuple(value)
        self._fault(where, "must be a list of objects, such as [{region: eu}, {region: us}]")
        return ()

    def _parent(self, value: Any, where: str) -> ParentLink | None:
        if value is None:
            return None
        block = self._take(lambda v, at: read_block(PARENT_SETTINGS, v, at), value, where)
        include = self._names(block["include"], f"{where}.include")
        return ParentLink(block["stream"] or "", include, block["incremental_dependency"], block["state"] == "global")

    def _fields(self, value: Mapping[str, Any], where: str) -> tuple[FieldSpec, ...]:
        return tuple(
            self._take(partial(FieldSpec.parse, name), item, f"{where}.{name}") for name, item in value.items()
        )

    def _contract(self, value: Any, where: str) -> Contract | None:
        block = self._take(lambda v, at: read_block(SCHEMA_SETTINGS, v, at), value, where)
        if block["contract"] and block["mode"]:
            self._fault(where, "needs contract or mode, one of them")
        if not block["contract"]:
            return None
        try:
            return read_contract(self._directory / block["contract"])
        except ConfigError as error:
            self._faults += error.faults
            return None

    def _probe(self, value: Any, where: str) -> ProbeSpec | None:
        if value is None:
            return None
        block = self._take(lambda v, at: read_block(PROBE_SETTINGS, v, at), value, where)
        return ProbeSpec(block["path"] or "", block["method"], block["params"])

    def _check_stream(self, spec: StreamSpec, where: str) -> None:
        allowed = _allowed_templates(spec)
        for name, value in (("path", spec.path), ("params", spec.params), ("headers", spec.headers)):
            self._faults += template_faults(value, f"{where}.{name}", allowed=allowed)
        self._faults += template_faults(spec.json, f"{where}.json", allowed=allowed, strict=False)
        for name, request in spec.job.templates().items() if spec.job else ():
            known = allowed if name == "create" else {*allowed, "job"}
            for key in ("path", "params", "headers", "json"):
                value, strict = getattr(request, key), key != "json"
                self._faults += template_faults(value, f"{where}.{name}.{key}", allowed=known, strict=strict)
        if spec.json is not None and spec.method != "POST":
            self._fault(f"{where}.json", "needs method: POST")
        if isinstance(spec.deletes, Reconcile):
            self._check_reconcile(spec, f"{where}.deletes.mode")
        if spec.parent and spec.partitions:
            self._fault(f"{where}.partitions", "cannot stand beside parent")
        for name in _parent_names([spec.path, spec.params, *_job_values(spec)]):
            if spec.parent and name not in spec.parent.include:
                self._fault(f"{where}.parent.include", f"must name '{name}', which a template uses")

    def _check_reconcile(self, spec: StreamSpec, where: str) -> None:
        if not spec.primary_keys:
            self._fault(where, "reconcile needs primary_keys")
        if spec.parent or spec.job:
            self._fault(where, "reconcile cannot stand beside parent, nor in a stream of type async_job")

    def _check_names(self, specs: Sequence[StreamSpec]) -> None:
        names = [spec.name for spec in specs]
        for index, spec in enumerate(specs):
            where = f"streams[{index}]"
            if spec.name in names[:index]:
                self._fault(f"{where}.name", "is the name of an earlier stream")
            if spec.parent and spec.parent.stream not in names:
                self._fault(f"{where}.parent.stream", unknown_name("stream", spec.parent.stream, names))
            elif spec.parent and spec.name in _ancestors(spec, specs):
                self._fault(f"{where}.parent.stream", "makes the stream its own ancestor")


def deep_merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`: objects merge key by key, anything else is replaced."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    return {**base, **{key: deep_merge(base.get(key), value) for key, value in over.items()}}


def _allowed_templates(spec: StreamSpec) -> set[str]:
    allowed = {"config"}
    allowed |= {"start", "end", "state"} if spec.incremental else set()
    return allowed | ({"parent"} if spec.parent else set()) | ({"partition"} if spec.partitions else set())


def _job_values(spec: StreamSpec) -> list[Any]:
    requests = spec.job.templates().values() if spec.job else ()
    return [value for request in requests for value in (request.path, request.params, request.json)]


def _parent_names(value: Any) -> Iterator[str]:
    text = json.dumps(value)
    for part in text.split("{parent.")[1:]:
        yield part.partition("}")[0]


def _ancestors(spec: StreamSpec, specs: Sequence[StreamSpec]) -> set[str]:
    by_name = {one.name: one for one in specs}
    found: set[str] = set()
    while spec.parent and spec.parent.stream in by_name and spec.parent.stream not in found:
        found.add(spec.parent.stream)
        spec = by_name[spec.parent.stream]
    return found


def _fingerprint(client: ClientConfig | None, streams: Any) -> str:
    facts = {"base_url": client.base_url if client else "", "streams": streams}
    canonical = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]
