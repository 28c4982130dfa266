"""Names of tables and columns: the tap's, kept where legal; sanitised and truncated without collision."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

MAX_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1; DuckDB has no limit, but a pipeline may move

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def legal_name(name: str) -> str:
    """`name` without NUL and control characters, not empty, and at most 63 bytes of UTF-8.

    A name that had to change ends in a hash of the original, so that two never meet.
    """
    cleaned = "".join(c if c.isprintable() or c == " " else "_" for c in name.encode("utf-8", "replace").decode())
    cleaned = cleaned or "_"
    if cleaned == name and len(name.encode()) <= MAX_BYTES:
        return name
    return with_hash(cleaned, name)


def unique_names(names: Iterable[str], known: Mapping[str, str], *, lower: bool = False) -> dict[str, str]:
    """Original → legal name, unique without regard to case (DuckDB folds it).

    `known` holds the names given earlier (original as `storable` → legal): they stay as they are. A column of an
    existing table that keeps its own name is taken for the name that folds or sanitises to it, where no other has it.
    """
    wanted = list(names)
    given: dict[str, str] = {}
    taken = {legal.casefold() for legal in known.values()}
    free = {legal for name, legal in known.items() if name == legal and not legal.startswith("_sdc_")} - set(wanted)
    for name in wanted:
        legal = known.get(storable(name)) or legal_name(name.lower() if lower else name)
        if storable(name) not in known and legal.casefold() in taken and legal not in free:
            legal = with_hash(legal, name)
        free.discard(legal)
        given[name] = legal
        taken.add(legal.casefold())
    return given


def storable(name: str) -> str:
    """`name` as a text column can hold it: NUL and lone surrogates as their JSON escapes."""
    return _UNSTORABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", name)


def split_stream(stream: str, default_schema: str | None, backend_schema: str, template: str) -> tuple[str, str]:
    """(schema, table) of a stream.

    `schema-table` and `database-schema-table` names are split, as the SDK does; a configured default schema wins
    over the stream's.
    """
    parts = stream.split("-")
    split = len(parts) in (2, 3) and all(parts)
    table = parts[-1] if split else stream
    schema = default_schema or (parts[-2] if split else backend_schema)
    return legal_name(schema), legal_name(template.replace("{stream}", table))


def with_hash(name: str, original: str) -> str:
    """`name`, cut where it must be, with a hash of what it stands for."""
    suffix = "_" + hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    head = name.encode()[: MAX_BYTES - len(suffix)].decode("utf-8", "ignore")
    return head + suffix
