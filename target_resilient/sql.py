"""SQL that is composed, never formatted: a template with `{}` for identifiers, and the identifiers beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Name = tuple[str, ...]


@dataclass(frozen=True)
class Sql:
    """Part of a statement. Each `{}` of `template` stands for one of `names` in order; values go by `%s`."""

    template: str
    names: tuple[Name, ...] = ()

    def __add__(self, other: Sql | str) -> Sql:
        other = Sql(other) if isinstance(other, str) else other
        return Sql(self.template + other.template, self.names + other.names)


def sql(template: str, *names: Name | str) -> Sql:
    """`sql("DROP TABLE {}", ("public", "t"))`; a plain string is an identifier of one part."""
    return Sql(template, tuple((name,) if isinstance(name, str) else name for name in names))


def join(separator: str, parts: Iterable[Sql]) -> Sql:
    """The parts with `separator` between them."""
    found = list(parts)
    return Sql(separator.join(p.template for p in found), tuple(n for p in found for n in p.names))


def columns(names: Iterable[str], template: str = "{}", separator: str = ", ") -> Sql:
    """One `template` a column; a template may use its column several times: `{} = excluded.{}`."""
    return join(separator, (Sql(template, ((name,),) * template.count("{}")) for name in names))


def quoted(parts: Name) -> str:
    """An identifier as both databases read it (SQL-92 delimited identifier)."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def as_text(statement: Sql) -> str:
    """A statement as text, for people and books; never executed."""
    return statement.template.format(*(quoted(name) for name in statement.names))
