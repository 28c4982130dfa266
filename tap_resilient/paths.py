"""JMESPath expressions over bodies and records, compiled when the source file is loaded."""

from __future__ import annotations

import re
from typing import Any, Final

import jmespath
import jmespath.exceptions

MISSING: Final = object()
"""What a path finds where there is nothing: not the same as a null that is there."""

_PLAIN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class Path:
    """One compiled expression; plain dotted names take a fast road and tell a missing key from a null.

    Raises ValueError for what is not JMESPath. Searching never raises: a path that meets a wrong type finds nothing.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        try:
            self._compiled = jmespath.compile(expression)
        except jmespath.exceptions.JMESPathError:
            raise ValueError("is not a valid JMESPath expression") from None
        self.names = tuple(expression.split(".")) if _PLAIN.fullmatch(expression) else None

    def find(self, data: Any) -> Any:
        """What stands at the path; MISSING where nothing does (for all but plain names, null counts as missing)."""
        if self.expression == "@":
            return data
        if self.names is None:
            return self._search(data)
        for name in self.names:
            if not isinstance(data, dict) or name not in data:
                return MISSING
            data = data[name]
        return data

    def get(self, data: Any) -> Any:
        """What stands at the path; None where nothing does."""
        found = self.find(data)
        return None if found is MISSING else found

    def holds(self, data: Any) -> bool:
        """Whether the expression is true of `data`, in JMESPath's sense of truth."""
        return self.find(data) not in (MISSING, None, False, "", [], {})

    def _search(self, data: Any) -> Any:
        try:
            found = self._compiled.search(data)
        except jmespath.exceptions.JMESPathError:
            return MISSING
        return MISSING if found is None else found
