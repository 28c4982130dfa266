"""Templates `{config.x} {parent.x} {partition.x} {start} {end} {state.x} {job.id}`: names put in place, no code."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from resilient_core.errors import Fault
from resilient_core.secrets import is_reference
from resilient_core.settings import unknown_name

NAMESPACES = ("config", "parent", "partition", "state", "job")
INSTANTS = ("start", "end")
KNOWN = (*(f"{{{name}.…}}" for name in NAMESPACES), *(f"{{{name}}}" for name in INSTANTS))

_TEMPLATE = re.compile(r"\{([A-Za-z_]\w*)(?:\.([A-Za-z_][\w-]*))?\}")


@dataclass(frozen=True)
class Scope:
    """What the templates of one request may name. `start` and `end` are as the API writes them; None means no bound."""

    parent: Mapping[str, Any] = field(default_factory=dict)
    partition: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    start: Any = None
    end: Any = None
    job: Mapping[str, Any] = field(default_factory=dict)


def render(value: Any, scope: Scope) -> Any:
    """`value` with its templates replaced; a string that is one template becomes what it names, of its own type."""
    return _walk(value, lambda text: _rendered(text, scope, str))


def render_path(path: str, scope: Scope) -> str:
    """A URL path with its templates replaced and URL-encoded."""
    return _TEMPLATE.sub(lambda match: _text(_lookup(match, scope), lambda found: quote(str(found), safe="")), path)


def substitute_config(value: Any, config: Mapping[str, Any], where: str, faults: list[Fault]) -> Any:
    """`value` with every `{config.x}` replaced; unknown names and secrets within longer strings become faults."""
    if isinstance(value, Mapping):
        return {k: substitute_config(v, config, f"{where}.{k}" if where else k, faults) for k, v in value.items()}
    if isinstance(value, list):
        return [substitute_config(v, config, f"{where}[{i}]", faults) for i, v in enumerate(value)]
    return _substituted(value, config, where, faults) if isinstance(value, str) else value


def template_faults(value: Any, where: str, *, allowed: Collection[str], strict: bool = True) -> list[Fault]:
    """Faults of the templates in `value`: names that nobody knows, or that mean nothing in this stream.

    Not `strict` leaves unknown names in braces alone: a GraphQL query is full of them.
    """
    faults: list[Fault] = []

    def look(text: str) -> str:
        for match in _TEMPLATE.finditer(text):
            if problem := _problem(match, allowed, strict=strict):
                faults.append(Fault(where, problem))
        return text

    _walk(value, look)
    return faults


def _problem(match: re.Match[str], allowed: Collection[str], *, strict: bool) -> str | None:
    known = (*NAMESPACES, *INSTANTS)
    name, key = match.groups()
    if name not in known:
        return f"{unknown_name('template', name, known)} (templates are {' '.join(KNOWN)})" if strict else None
    if name not in allowed:
        return f"{{{name}}} means nothing here; this stream has no such {_needs(name)}"
    if (name in INSTANTS) == (key is not None):
        return f"write {{{name}}}" if name in INSTANTS else f"write {{{name}.<name>}}"
    return None


def _needs(name: str) -> str:
    needs = {"parent": "parent", "partition": "partitions", "job": "job, or none yet"}
    return needs.get(name, "incremental block")


def _walk(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _walk(item, change) for key, item in value.items()}
    return [_walk(item, change) for item in value] if isinstance(value, list | tuple) else value


def _rendered(text: str, scope: Scope, write: Callable[[Any], str]) -> Any:
    if whole := _TEMPLATE.fullmatch(text):
        return _lookup(whole, scope)
    return _TEMPLATE.sub(lambda match: _text(_lookup(match, scope), write), text)


def _text(found: Any, write: Callable[[Any], str]) -> str:
    return "" if found is None else write(found)


def _lookup(match: re.Match[str], scope: Scope) -> Any:
    name, key = match.groups()
    if name in INSTANTS and key is None:
        return getattr(scope, name)
    return getattr(scope, name).get(key) if name in NAMESPACES[1:] and key else match[0]


def _substituted(text: str, config: Mapping[str, Any], where: str, faults: list[Fault]) -> Any:
    names = [match[2] for match in _TEMPLATE.finditer(text) if match[1] == "config" and match[2]]
    unknown = [name for name in names if name not in config]
    faults += [Fault(where, f"{{config.{name}}}: {unknown_name('variable', name, config)}") for name in unknown]
    whole = _TEMPLATE.fullmatch(text)
    if unknown or not names:
        return text
    if whole:
        return config[names[0]]
    if any(is_reference(config[name]) or isinstance(config[name], dict | list) for name in names):
        faults.append(Fault(where, "a secret, list or object cannot stand within a longer string; use it as a whole"))
        return text
    return _TEMPLATE.sub(lambda match: str(config[match[2]]) if match[1] == "config" else match[0], text)
