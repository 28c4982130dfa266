"""tap-resilient: any HTTP API, by configuration, to Singer messages."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn, cast

import click
from singer_sdk import Stream, Tap
from singer_sdk.helpers._classproperty import classproperty
from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities, TapCapabilities
from singer_sdk.plugin_base import _ConfigInput
from singer_sdk.singerlib import Catalog

from resilient_core.command import environment_overrides, load_config_files, run_command
from resilient_core.errors import ConfigError, Fault, IncompleteScanError, ResilientError
from resilient_core.secrets import Resolver
from resilient_core.settings import Setting, check_config, config_jsonschema, unknown_name
from resilient_core.telemetry import Progress, facts
from tap_resilient.background import Background
from tap_resilient.client import Client
from tap_resilient.fetcher import Fetcher
from tap_resilient.messages import Messages
from tap_resilient.outcome import EXTRACTION_LOG_KEYS, EXTRACTION_LOG_SCHEMA, Outcome
from tap_resilient.source import EXTRACTION_LOG, SOURCE_SETTINGS, SourceSpec, StreamSpec, load_source
from tap_resilient.state import StateKeeper, checked_state
from tap_resilient.stream import ABORTING, ResilientStream, stream_class

if TYPE_CHECKING:
    from singer_sdk.helpers.types import TapState

SETTINGS: tuple[Setting, ...] = (
    Setting("source", "string", "Path of the source file (YAML or JSON), instead of the keys below"),
    Setting("config", "object", "Variables of the source file: what {config.x} stands for", {}),
    *(Setting(**{**vars(setting), "required": False}) for setting in SOURCE_SETTINGS),
)


class ResilientTap(Tap):
    """Any HTTP API, by configuration, to Singer messages."""

    name = "tap-resilient"
    package_name = "singer-resilient"
    config_jsonschema: ClassVar[dict[str, Any]] = config_jsonschema(SETTINGS)
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        TapCapabilities.CATALOG,
        TapCapabilities.STATE,
        TapCapabilities.DISCOVER,
        PluginCapabilities.ABOUT,
    ]
    source: SourceSpec

    def __init__(self, *, catalog: Any = None, state: Any = None, **options: Any) -> None:
        self.started = _utc_now()
        self.run_id = str(uuid.uuid4())
        self.messages = Messages()
        self.resolver = Resolver()
        self._failures: list[ResilientError] = []
        self._companions: dict[str, Outcome] = {}
        self._client: Client | None = None
        self._background = Background()
        self._progress: Progress | None = None
        options = {**options, "setup_mapper": False}
        super().__init__(catalog=_checked_catalog(catalog), state=checked_state(state), **options)
        self._check_catalog_names()

    # The run

    def sync_all(self) -> None:  # type: ignore[misc]  # final in the SDK, where one failing stream aborts the rest
        """Read all selected streams, write the end marker, and raise the worst that happened to any of them."""
        self._keep.begin()
        self._progress = Progress(self.logger, "reading")
        try:
            for stream in self._top_streams():
                self._sync_one(stream)
            self._conclude()
        except ResilientError:
            self.checkpoint(force=True)
            raise
        finally:
            self._progress.close()
            self.close()
        if self._failures:
            raise max(self._failures, key=lambda error: error.code)

    def _top_streams(self) -> list[ResilientStream]:
        wanted = [stream for stream in self._all_streams() if stream.selected or stream.has_selected_descendents]
        return [stream for stream in wanted if stream.parent_stream_type is None]

    def _all_streams(self) -> list[ResilientStream]:
        return [stream for stream in self.streams.values() if isinstance(stream, ResilientStream)]

    def _sync_one(self, stream: ResilientStream) -> None:
        try:
            stream.run()
        except ABORTING:
            raise
        except ResilientError as error:
            self.failed(stream, error)

    def failed(self, stream: ResilientStream, error: ResilientError) -> None:
        """A stream cannot go on; the others do."""
        self._failures.append(error)
        stream.failed = True
        if not isinstance(error, IncompleteScanError):
            stream.outcome.judge("incomplete", f"it failed with exit code {error.code}")
        self.logger.error(facts("stream failed", stream=stream.name, problem=str(error)))

    def _conclude(self) -> None:
        read = [stream for stream in self._all_streams() if stream.selected]
        for stream in read:
            stream.outcome.finished_at = stream.outcome.finished_at or self.now_text()
            stream.outcome.tell(self.logger)
        if self.source.extraction_log:
            self.messages.schema(EXTRACTION_LOG, EXTRACTION_LOG_SCHEMA, EXTRACTION_LOG_KEYS, None)
            records = [stream.outcome.record(self.run_id) for stream in read]
            self.messages.records(EXTRACTION_LOG, records, self.now_text())
        self._keep.end({**{stream.name: stream.outcome for stream in read}, **self._companions})

    # What streams use

    @property
    def client(self) -> Client:
        """The one HTTP client of the run."""
        if self._client is None:
            self._background = Background()
            self._client = Client(self.source.client, self.resolver, sleep=self._background.sleep)
        return self._client

    def fetcher(self, spec: StreamSpec, *, ahead: bool) -> Fetcher:
        """What fetches the pages of a stream; `ahead` of time as many as may be under way at once, if more than one."""
        client, concurrency = self.client, self.source.client.rate_limit.concurrency
        places = concurrency if ahead and concurrency > 1 else 0
        return Fetcher(spec.of_pages(), client, self.resolver, self._background, places=places)

    def close(self) -> None:
        """End what is still under way, and close the client's connections."""
        if self._client is not None:
            self._background.close()
            self._client.close()
            self._client = None

    def stream(self, name: str) -> ResilientStream:
        """The stream of that name."""
        stream = self.streams[name]
        assert isinstance(stream, ResilientStream)  # noqa: S101 - narrows the SDK's type
        return stream

    @property
    def bookmarked(self) -> dict[str, Any]:
        """The state, for bookmarks to be read and written."""
        return self._keep.value

    def companion(self, name: str) -> Outcome:
        """The outcome of a stream that goes with another one; it stands in the end marker, too."""
        self._companions[name] = Outcome(name, self.now_text())
        return self._companions[name]

    def checkpoint(self, *, force: bool = False) -> None:
        """Write the state if it is time to, or `force`."""
        self._keep.checkpoint(force=force)

    def emitted(self, rows: int) -> None:
        """Records went out."""
        self._keep.emitted(rows)
        self._rows += rows
        if self._progress:
            self._progress.show(self._rows)

    def now_text(self) -> str:
        """This instant in RFC 3339."""
        return _utc_now().isoformat().replace("+00:00", "Z")

    # What the SDK asks

    def discover_streams(self) -> Sequence[Stream]:
        """The configured streams."""
        specs = {spec.name: spec for spec in self.source.streams}
        classes: dict[str, type[ResilientStream]] = {}
        return [_class_of(spec, specs, classes)(self) for spec in self.source.streams]

    @property
    def catalog_dict(self) -> dict[str, Any]:
        """The catalog, with schemas as they are: singerlib drops what it does not know."""
        catalog = super().catalog_dict
        for entry in catalog["streams"]:
            entry["schema"] = self.streams[entry["tap_stream_id"]].schema
        return catalog

    def run_discovery(self) -> str:
        """Print the catalog."""
        try:
            return super().run_discovery()
        finally:
            self.close()

    @property
    def state(self) -> TapState:
        """The state of the run."""
        return cast("TapState", self._keep.value)

    def load_state(self, state: dict[str, Any]) -> None:
        """Begin with `state`, which has been checked."""
        self._rows = 0
        self._keep = StateKeeper(state, self.source.fingerprint, self.messages)

    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        """Read the source. Raises ConfigError with every fault, whatever `raise_errors` says."""
        faults = check_config(SETTINGS, self._config)
        if not {"source", "config"} & {fault.where for fault in faults}:
            try:
                self.source = load_source(self._config)
            except ConfigError as error:
                faults += error.faults
        if faults:
            raise ConfigError(list(dict.fromkeys(faults)))
        return []

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        self.messages.terminate(signum, frame)

    def _check_catalog_names(self) -> None:
        known = [spec.name for spec in self.source.streams]
        faults = [
            Fault(f"--catalog: {name}", unknown_name("stream", name, known))
            for name in self.input_catalog or {}
            if name not in known
        ]
        if faults:
            raise ConfigError(faults)

    @classproperty
    def _env_var_config(cls) -> dict[str, Any]:  # noqa: N805
        return environment_overrides(cls.name, SETTINGS)

    @classmethod
    def append_builtin_config(cls, config_jsonschema: dict[str, Any]) -> None:
        """No settings but ours."""

    @classmethod
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> _ConfigInput:
        """The configuration files of the command line, with clear errors."""
        config, from_environment = load_config_files(value)
        return _ConfigInput(config, from_environment)

    @classmethod
    def invoke(  # type: ignore[override]  # as the SDK's own taps do
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: _ConfigInput | None = None,
        state: IO[str] | None = None,
        catalog: IO[str] | None = None,
    ) -> None:
        """Run the tap from the command line."""
        if about:
            cls.print_about(about_format)
            return
        config = config or _ConfigInput()
        documents = {"state": _read_json("--state", state), "catalog": _read_json("--catalog", catalog)}
        cls(config=config.config, parse_env_config=config.parse_env, **documents).sync_all()


def _class_of(
    spec: StreamSpec, specs: Mapping[str, StreamSpec], classes: dict[str, type[ResilientStream]]
) -> type[ResilientStream]:
    """The class of a stream, made once, its parent's first."""
    if spec.name not in classes:
        parent = _class_of(specs[spec.parent.stream], specs, classes) if spec.parent else None
        classes[spec.name] = stream_class(spec, parent)
    return classes[spec.name]


def _checked_catalog(catalog: Any) -> Catalog | None:
    """The catalog. Raises ConfigError if it has not the shape of a Singer catalog."""
    if catalog is None or isinstance(catalog, Catalog):
        return catalog
    try:
        if not isinstance(catalog["streams"], list):
            raise TypeError
        return Catalog.from_dict(catalog)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ConfigError([Fault("--catalog", "is not a Singer catalog: {streams: [{tap_stream_id, …}]}")]) from None


def _read_json(option: str, file: IO[str] | None) -> Any:
    if file is None:
        return None
    try:
        return json.loads(file.read())
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise ConfigError([Fault(option, "is not valid JSON" + (f" (line {line})" if line else ""))]) from None


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def main() -> NoReturn:
    """Entry point of the command `tap-resilient`."""
    run_command(ResilientTap.name, ResilientTap.get_singer_command())


if __name__ == "__main__":
    main()
