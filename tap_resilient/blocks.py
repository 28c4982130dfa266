"""Reads one block of a source file against its declared settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resilient_core.errors import Fault
from resilient_core.settings import Setting, check_config, parse_duration, parse_ratio, parse_size, with_defaults

_PARSERS = {"duration": parse_duration, "size": parse_size, "ratio": parse_ratio}


def read_block(settings: Sequence[Setting], value: Any, where: str) -> tuple[dict[str, Any], list[Fault]]:
    """Every setting of the block `value`: durations in seconds, sizes in bytes, faulty ones at their default.

    None means an empty block. The faults name their place as `<where>.<setting>`.
    """
    if value is not None and not isinstance(value, Mapping):
        return read_block(settings, None, where)[0], [Fault(where, "must be an object")]
    given = value or {}
    faults = check_config(settings, given)
    wrong = {fault.where for fault in faults}
    values = with_defaults(settings, {key: item for key, item in given.items() if key not in wrong})
    block = {setting.name: _parsed(setting, values[setting.name]) for setting in settings}
    return block, [Fault(f"{where}.{fault.where}", fault.message) for fault in faults]


def _parsed(setting: Setting, value: Any) -> Any:
    parser = _PARSERS.get(setting.kind)
    return value if value is None or parser is None else parser(value)
