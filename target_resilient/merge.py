"""The SQL of one merge: upsert what differs and is not older, then see that nothing is missing."""

from __future__ import annotations

from target_resilient.sql import Name, Sql, columns, join, sql
from target_resilient.table import DELETED_AT, METADATA, VERSION, TablePlan

_METADATA_NAMES = {column.name for column in METADATA} - {VERSION.name}


def count_present(plan: TablePlan, stage: Name) -> Sql:
    """(staged rows whose key is in the table, of these the ones that the replication key holds back).

    After the merge the first must be all of them; a row that was not held back has the stored replication key by then.
    """
    stale = _stale(plan, "t", "s")
    return join("", [
        sql("SELECT count(*), count(CASE WHEN "), stale or sql("false"),
        sql(" THEN 1 END) FROM {} AS s JOIN {} AS t ON ", stage, plan.table),
        columns(plan.key, "t.{} = s.{}", " AND "),
    ])  # fmt: skip


def merge_counted(plan: TablePlan, stage: Name) -> Sql:
    """The merge, as a query for (rows inserted or updated, rows inserted), where the database can tell them apart."""
    return join("", [
        sql("WITH touched AS ("), merge(plan, stage), sql(f" RETURNING {plan.inserted_marker}"),
        sql(" AS inserted) SELECT count(*), count(CASE WHEN inserted THEN 1 END) FROM touched"),
    ])  # fmt: skip


def merge(plan: TablePlan, stage: Name) -> Sql:
    """INSERT … ON CONFLICT DO UPDATE … WHERE something differs and the incoming row is not older."""
    names = plan.column_names
    insert = join("", [
        sql("INSERT INTO {} AS t (", plan.table), columns(names), sql(") SELECT "), columns(names),
        sql(" FROM {}", stage),
    ])  # fmt: skip
    if not plan.key:
        return insert
    conflict = join("", [insert, sql(" ON CONFLICT ("), columns(plan.key), sql(") DO ")])
    changing = [name for name in names if name not in plan.key]
    changes = _changes(plan, [name for name in changing if name not in _METADATA_NAMES])
    if not changes.template:
        return conflict + "NOTHING"
    assignments = [sql("{} = excluded.{}", name, name) for name in changing]
    assignments += [sql("{} = NULL", DELETED_AT)] if plan.clears_deleted else []
    stale = _stale(plan, "t", "excluded")
    guard = join("", [sql("NOT ("), stale, sql(") AND (")]) if stale else sql("(")
    return join("", [
        conflict, sql("UPDATE SET "), join(", ", assignments), sql(" WHERE "), guard, changes, sql(")"),
    ])  # fmt: skip


def remove_marked(plan: TablePlan, stage: Name) -> Sql:
    """Delete for good what arrived with `_sdc_deleted_at` (`hard_delete`)."""
    on = columns(plan.key, "t.{} = s.{}", " AND ")
    return join("", [
        sql("DELETE FROM {} AS t WHERE t.{} IS NOT NULL AND EXISTS (SELECT 1 FROM {} AS s WHERE ",
            plan.table, DELETED_AT, stage),
        on, sql(")"),
    ])  # fmt: skip


def _changes(plan: TablePlan, names: list[str]) -> Sql:
    """True where a business column differs, or a deleted row comes back."""
    parts = []
    for name in names:
        comparable = plan.comparable.get(name, "{}")
        old, new = comparable.replace("{}", "t.{}"), comparable.replace("{}", "excluded.{}")
        parts.append(sql(f"{old} IS DISTINCT FROM {new}", name, name))
    if plan.clears_deleted:
        parts.append(sql("t.{} IS NOT NULL", DELETED_AT))
    return join(" OR ", parts)


def _stale(plan: TablePlan, old: str, new: str) -> Sql | None:
    """True where the incoming replication key is lower than the stored one; NULL is lowest."""
    column = plan.replication_column
    if column is None or not plan.ordered or column.kind in {"json", "other"}:
        return None
    name = column.name
    return sql(f"{old}.{{}} IS NOT NULL AND ({new}.{{}} IS NULL OR {new}.{{}} < {old}.{{}})", name, name, name, name)
