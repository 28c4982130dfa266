"""Secrets that were resolved in this process never reach a log, an error, a state, a table or a report."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote, quote_plus

MASK = "***"
MIN_LENGTH = 4  # shorter values would mask ordinary words


class Redactor:
    """Knows secret values and masks them, also base64, URL-encoded and JSON-escaped."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        """Mask `secret` from now on. Values under 4 characters are ignored."""
        if len(secret) < MIN_LENGTH:
            return
        self._forms |= _forms(secret)
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def redact(self, text: str) -> str:
        """`text` with every known secret replaced by `***`."""
        return self._pattern.sub(MASK, text) if self._pattern else text


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    forms |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    forms |= {form.rstrip("=") for form in forms if len(form.rstrip("=")) >= MIN_LENGTH}
    return forms


redactor = Redactor()
"""The redactor of this process: secret values are process-wide facts, as `logging` is."""
