"""The settings of target-resilient: declared once, checked all at once, parsed into options."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient_core.contract import POLICIES
from resilient_core.errors import ConfigError, Fault
from resilient_core.secrets import ref_faults
from resilient_core.settings import Setting, check_config, parse_duration, parse_ratio, parse_size, with_defaults
from target_resilient.destination import DEFAULT_DESTINATION, parse_destination
from target_resilient.options import LoadOptions, TableOptions

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "destination",
        "string",
        "Where to load: `duckdb:///file.duckdb`, `postgresql://user@host/dbname`, or a libpq DSN such as"
        f" `service=warehouse`. Without it and without `host`: `{DEFAULT_DESTINATION}`, a file in the working folder.",
        sensitive=True,
    ),
    Setting("host", "string", "PostgreSQL host, instead of `destination`."),
    Setting("port", "integer", "PostgreSQL port."),
    Setting("user", "string", "PostgreSQL user."),
    Setting("password", "string", "PostgreSQL password; goes with `destination` or `host`.", sensitive=True),
    Setting("dbname", "string", "PostgreSQL database."),
    Setting("sslmode", "string", "libpq sslmode, such as `require` or `verify-full`."),
    Setting(
        "default_target_schema",
        "string",
        "Schema for all tables. Without it: the one in a `schema-table` stream name, else the database's default.",
    ),
    Setting("table_name_template", "string", "Name of a stream's table; `{stream}` is the stream.", "{stream}"),
    Setting(
        "column_names",
        "options",
        "`keep` the tap's column names, or fold them to `lower` case.",
        "keep",
        options=("keep", "lower"),
    ),
    Setting("meta_schema", "string", "Schema of the state, ledger, quarantine and other tables of ours.", "_resilient"),
    Setting(
        "pipeline",
        "string",
        "Name of this load among all that write to the database; one load of a pipeline runs at a time. Under Meltano:"
        " `$MELTANO_ENVIRONMENT:$MELTANO_EXTRACTOR_NAME-to-$MELTANO_LOADER_NAME`, else `default`.",
    ),
    Setting(
        "load_method",
        "options",
        "`upsert` by key (a replay changes nothing), `append-only`, or `overwrite`: a complete load replaces all"
        " rows, an incomplete one removes nothing.",
        "upsert",
        options=("upsert", "append-only", "overwrite"),
    ),
    Setting(
        "keyless",
        "options",
        "Streams without a key: `set` keys each row by a hash of it, so that a replay adds nothing and true duplicates"
        " collapse and are counted; `append` keeps every row, at least once.",
        "set",
        options=("set", "append"),
    ),
    *(
        Setting(name, "options", f"{text} Overrides the contract's own policy.", options=POLICIES[name])
        for name, text in {
            "on_new_column": "A field that the contract does not name: `evolve` adds a column, `ignore` drops the"
            " field, `freeze` refuses the record. Default: evolve.",
            "on_type_change": "A value of another type than the column: `quarantine` the record, or `freeze`, that is"
            " stop the load. Default: quarantine.",
            "on_bad_record": "A record that breaks its schema: `quarantine` it with field and reason, `fail` the load,"
            " or `discard` it, counted. Default: quarantine.",
        }.items()
    ),
    Setting(
        "max_quarantine_ratio",
        "ratio",
        "Stop with exit code 65 when more than this share of records is refused, judged from 100 records on.",
        "0.1",
    ),
    Setting("max_quarantine_rows", "integer", "Stop with exit code 65 when more records than this are refused."),
    Setting(
        "hard_delete",
        "boolean",
        "Remove deleted rows for good. Off: they stay, with `_sdc_deleted_at`, and lose it when they come back.",
        False,
    ),
    Setting(
        "max_delete_ratio",
        "ratio",
        "Stop with exit code 79, and remove nothing, when a refresh would remove more than this share of a table.",
        "0.25",
    ),
    Setting(
        "trust_eof",
        "boolean",
        "Take the end of the input as proof that a foreign tap has sent all, so that a refresh may remove rows.",
        False,
    ),
    Setting(
        "on_gap",
        "options",
        "A run that starts from a state ahead of the committed one leaves rows out: `fail` (79), `warn`, `accept`.",
        "fail",
        options=("fail", "warn", "accept"),
    ),
    Setting(
        "naive_datetimes",
        "options",
        "Date-times without a zone are `utc`, or `refuse`d.",
        "utc",
        options=("utc", "refuse"),
    ),
    Setting(
        "batch_size_rows",
        "integer",
        "Commit at the next STATE once this many records have come; without one in reach, at twice as many.",
        50_000,
    ),
    Setting("batch_size_bytes", "size", "The same by size of the input; bounds the memory.", "32MB"),
    Setting("batch_max_age", "duration", "The same by age, so that a slow tap's rows appear soon.", "1m"),
    Setting("contracts_dir", "string", "Folder of contracts `<stream>.json` that overrule the tap's SCHEMA."),
    Setting(
        "add_record_metadata",
        "boolean",
        "Add `_sdc_extracted_at`, `_sdc_received_at`, `_sdc_batched_at`, `_sdc_sequence`, `_sdc_table_version` to each"
        " row. Off, since the ledger tells it at no cost per row.",
        False,
    ),
    Setting(
        "retry_max_elapsed",
        "duration",
        "How long to try again when the database is away, locked or full, before exit code 69.",
        "5m",
    ),
    Setting("stream_maps", "object", "Stream maps of the Singer SDK; slower, record by record."),
    Setting("stream_map_config", "object", "Values that stream maps use."),
    Setting("flattening_enabled", "boolean", "Flatten nested objects into columns; slower, record by record.", False),
    Setting("flattening_max_depth", "integer", "How deep to flatten."),
)


APPROVALS = ("on_gap", "max_delete_ratio")
"""Settings that a person may give for one run, as `TARGET_RESILIENT_<SETTING>`, whatever the configuration says."""


def config_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Every fault of a configuration, secrets still unresolved."""
    faults = check_config(SETTINGS, config) + ref_faults("", dict(config))
    for name in ("batch_size_rows", "max_quarantine_rows", "port"):
        value = config.get(name)
        if isinstance(value, int) and value < (0 if name == "max_quarantine_rows" else 1):
            faults.append(Fault(name, "must be positive"))
    if isinstance(template := config.get("table_name_template"), str) and "{stream}" not in template:
        faults.append(Fault("table_name_template", "must contain {stream}"))
    folder = config.get("contracts_dir")
    if isinstance(folder, str) and not Path(folder).is_dir():
        faults.append(Fault("contracts_dir", "is no folder"))
    if not any("ref+" in str(config.get(name, "")) for name in ("destination", "host")):
        try:
            parse_destination({k: v for k, v in config.items() if isinstance(v, (str, int))})
        except ConfigError as error:
            faults += error.faults
    return faults


def parse_options(config: Mapping[str, Any], *, takeover: bool, dry_run: bool) -> LoadOptions:
    """The options of a load from a checked and resolved configuration."""
    found = with_defaults(SETTINGS, config)
    return LoadOptions(
        pipeline=found["pipeline"] or default_pipeline(),
        default_schema=found["default_target_schema"] or None,
        table_template=found["table_name_template"],
        policies={name: found[name] for name in POLICIES},
        contracts_dir=Path(found["contracts_dir"]) if found["contracts_dir"] else None,
        tables=TableOptions(
            lower_names=found["column_names"] == "lower",
            metadata=found["add_record_metadata"],
            keyless=found["keyless"],
            append_only=found["load_method"] == "append-only",
            naive_datetimes=found["naive_datetimes"],
            hard_delete=found["hard_delete"] or found["load_method"] == "overwrite",
            load_version=int(time.time() * 1000) if found["load_method"] == "overwrite" else None,
        ),
        max_rows=found["batch_size_rows"],
        max_bytes=parse_size(found["batch_size_bytes"]),
        max_age=parse_duration(found["batch_max_age"]),
        max_quarantine_ratio=parse_ratio(found["max_quarantine_ratio"]),
        max_quarantine_rows=found["max_quarantine_rows"],
        on_gap=found["on_gap"],
        max_delete_ratio=parse_ratio(found["max_delete_ratio"]),
        trust_eof=found["trust_eof"],
        retry_max_elapsed=parse_duration(found["retry_max_elapsed"]),
        takeover=takeover,
        dry_run=dry_run,
    )


def default_pipeline(environ: Mapping[str, str] = os.environ) -> str:
    """Meltano's names for what runs, else `default`."""
    extractor, loader = environ.get("MELTANO_EXTRACTOR_NAME"), environ.get("MELTANO_LOADER_NAME")
    if extractor and loader:
        return f"{environ.get('MELTANO_ENVIRONMENT', '')}:{extractor}-to-{loader}"
    return "default"
