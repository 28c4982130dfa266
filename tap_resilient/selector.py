"""Finds the records in a body. What is not there, or is no list of objects, makes the answer a failed request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from resilient_core.errors import Fault
from resilient_core.settings import Setting
from tap_resilient.blocks import read_block
from tap_resilient.exchange import BadAnswerError
from tap_resilient.paths import MISSING, Path

Row = dict[str, Any]

SETTINGS = (
    Setting("path", "string", "JMESPath of the list of records; @ is the whole body", "@"),
    Setting("on_missing_path", "options", "What a body without the path is", "error", ("error", "empty")),
)


@dataclass(frozen=True)
class RecordsSelector:
    """The `records:` block. `missing_is_empty` is for APIs that leave the list out when it has no members."""

    path: Path
    missing_is_empty: bool = False

    @classmethod
    def parse(cls, value: Any, where: str) -> tuple[RecordsSelector, list[Fault]]:
        """The selector of a `records:` block, with every fault found."""
        block, faults = read_block(SETTINGS, value, where)
        path, more = parse_path(block["path"], f"{where}.path")
        return cls(path or Path("@"), block["on_missing_path"] == "empty"), faults + more

    @property
    def names(self) -> tuple[str, ...] | None:
        """The plain names that lead to the records; None for an expression."""
        return () if self.path.expression == "@" else self.path.names

    def select(self, body: Any) -> list[Row]:
        """The records in `body`. Raises BadAnswerError when the path is missing or holds no list of objects."""
        found = self.path.find(body)
        if found is MISSING:
            if self.missing_is_empty:
                return []
            raise BadAnswerError(f"the answer has no records at '{self.path.expression}'{_lists_in(body)}")
        if type(found) is not list:
            problem = f"'{self.path.expression}' holds {json_type(found)}, not a list of records"
            raise BadAnswerError(problem + _lists_in(body))
        if not all(type(row) is dict for row in found):
            raise BadAnswerError(f"'{self.path.expression}' holds members that are no objects")
        return cast("list[Row]", found)


def _lists_in(body: Any) -> str:
    """Where the records may be instead: the body's own fields that hold objects in a list."""
    fields = body.items() if isinstance(body, dict) else ()
    found = [str(name) for name, value in fields if isinstance(value, list) and value and isinstance(value[0], dict)]
    return f"; records.path may have to be: {', '.join(found)}" if found else ""


def parse_path(expression: str | None, where: str) -> tuple[Path | None, list[Fault]]:
    """The compiled path, or the fault of it; None stays None."""
    if expression is None:
        return None, []
    try:
        return Path(expression), []
    except ValueError as error:
        return None, [Fault(where, str(error))]


def json_type(value: Any) -> str:
    """The JSON type of a decoded value, in JSON Schema's words."""
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "integer", type(None): "null"}
    return names.get(type(value), "number")
