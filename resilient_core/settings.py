"""Settings of the three plugins: declared once, used for validation, `--about`, meltano.yml and the README."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resilient_core.errors import Fault

Kind = Literal[
    "string", "integer", "boolean", "object", "array", "options", "duration", "size", "ratio", "password", "any"
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)(B|kB|KB|MB|GB)")
_SIZE_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3}

_JSON_TYPES: dict[str, str | list[str]] = {
    "string": "string",
    "integer": "integer",
    "boolean": "boolean",
    "object": "object",
    "array": "array",
    "options": "string",
    "duration": "string",
    "size": "string",
    "ratio": ["number", "string"],
    "password": "string",
    "any": ["string", "integer", "number", "boolean", "object", "array"],
}


@dataclass(frozen=True)
class Setting:
    """One setting of a plugin. `default` None means that the setting has no default."""

    name: str
    kind: Kind
    description: str
    default: Any = None
    options: tuple[str, ...] = ()
    required: bool = False
    sensitive: bool = False

    @property
    def label(self) -> str:
        """A title for people: `batch_size_rows` → `Batch size rows`."""
        return self.name.replace("_", " ").capitalize()

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of this setting, as the SDK's `config_jsonschema` wants it; null counts as not set."""
        types = _JSON_TYPES[self.kind]
        schema: dict[str, Any] = {
            "type": [*([types] if isinstance(types, str) else types), "null"],
            "title": self.label,
            "description": self.description,
        }
        if self.default is not None:
            schema["default"] = self.default
        if self.options:
            schema["enum"] = [*self.options, None]
        if self.sensitive:
            schema["secret"] = True
        return schema


def config_jsonschema(settings: Sequence[Setting]) -> dict[str, Any]:
    """The JSON Schema of a whole configuration."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {setting.name: setting.json_schema() for setting in settings},
        "additionalProperties": False,
    }
    required = [setting.name for setting in settings if setting.required]
    return {**schema, "required": required} if required else schema


def check_config(settings: Sequence[Setting], config: Mapping[str, Any]) -> list[Fault]:
    """Every fault of `config` against `settings`: unknown keys, wrong kinds, missing ones. Never quotes a value."""
    known = {setting.name: setting for setting in settings}
    faults = [Fault(key, unknown_name("setting", key, known)) for key in config if key not in known]
    for setting in settings:
        value = config.get(setting.name)
        if value is None:
            if setting.required:
                faults.append(Fault(setting.name, "is required"))
        elif problem := _problem(setting, value):
            faults.append(Fault(setting.name, problem))
    return faults


def with_defaults(settings: Sequence[Setting], config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with a value for every setting; null and absent become the default."""
    return {s.name: s.default if config.get(s.name) is None else config[s.name] for s in settings}


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that nobody knows: the nearest known one, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"unknown {what}; did you mean '{near[0]}'?" if near else f"unknown {what}; known: {', '.join(names)}"


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `10s`, `5m`, `1h`, `7d`. Raises ValueError for anything else, a bare number too."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("must be a duration with a unit, such as 500ms, 10s, 5m, 1h or 7d")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_size(text: str) -> int:
    """Bytes of `512B`, `100kB`, `64MB`, `2GB` (powers of 1000). Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("must be a size with a unit, such as 512B, 100kB, 64MB or 2GB")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def parse_ratio(value: float | str) -> float:
    """A number from 0 to 1, also as text (Meltano has no kind for numbers). Raises ValueError otherwise."""
    try:
        ratio = float(value)
    except (TypeError, ValueError):
        ratio = -1.0
    if isinstance(value, bool) or not 0.0 <= ratio <= 1.0:
        raise ValueError("must be a number from 0 to 1, such as 0.1")
    return ratio


def parse_override(setting: Setting, text: str) -> Any:
    """The value of an environment variable for `setting`; objects and arrays are JSON.

    Raises ValueError with a message that does not quote the value.
    """
    if setting.kind == "integer":
        if not re.fullmatch(r"-?\d+", text):
            raise ValueError("must be an integer")
        return int(text)
    if setting.kind == "boolean":
        return text.lower() in {"true", "1", "yes", "on"}
    if setting.kind in {"object", "array"}:
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError(f"must be a JSON {setting.kind}") from None
    return text


def _problem(setting: Setting, value: Any) -> str | None:
    parsers = {"duration": parse_duration, "size": parse_size, "ratio": parse_ratio}
    if parser := parsers.get(setting.kind):
        try:
            parser(value)
        except ValueError as error:
            return str(error)
        return None
    if setting.kind == "any":
        return None
    expected = _JSON_TYPES[setting.kind]
    if _json_type(value) != expected:
        return f"must be of type {expected}, not {_json_type(value)}"
    if setting.options and value not in setting.options:
        return f"must be one of: {', '.join(setting.options)}"
    return None


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {int: "integer", float: "number", str: "string", dict: "object", list: "array", type(None): "null"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), type(value).__name__)
