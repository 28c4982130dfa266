"""Streams end to end on a loopback server: incremental, windows, partitions, parents, selection, deletes, actions."""

import datetime
import json

import pytest

from tests.tap.support import Answer, config_for, raw_tap, run_tap, serving

ROWS = [{"id": n, "at": f"2024-01-{n:02d}T00:00:00Z", "name": f"n{n}", "cust": {"id": n % 3}} for n in range(1, 11)]
PLAIN = {"name": "rows", "path": "/rows", "primary_keys": ["id"]}
SINCE = {"replication_key": "at", "start_param": "since"}


def since(asked):
    return Answer([row for row in ROWS if row["at"] >= asked.params.get("since", "")])


def state_at(value, stream="rows", key="at"):
    return {"bookmarks": {stream: {"replication_key": key, "replication_key_value": value}}}


def context_values(run, stream):
    parts = run.state["bookmarks"][stream]["partitions"]
    return {json.dumps(part["context"]): part.get("replication_key_value") for part in parts}


# Incremental


def test_a_second_run_reads_from_the_bookmark_on_and_ties_again():
    with serving(since) as api:
        config = config_for(api.url, {**PLAIN, "incremental": SINCE})
        first = run_tap(config)
        second = run_tap(config, state=first.state)
    assert first.bookmark("rows") == "2024-01-10T00:00:00Z"
    assert api.params("since") == [None, "2024-01-10T00:00:00Z"]
    assert [record["id"] for record in second.records("rows")] == [10]
    assert second.bookmark("rows") == first.bookmark("rows")


def test_the_incoming_state_is_the_first_message_without_the_old_verdicts():
    old = {**state_at("2024-01-09T00:00:00Z"), "resilient": {"version": 1, "source": "x", "scans": {"rows": {}}}}
    with serving(since) as api:
        run = run_tap(config_for(api.url, {**PLAIN, "incremental": SINCE}), state=old)
    first = run.messages[0]
    assert first["type"] == "STATE"
    assert first["value"]["bookmarks"] == old["bookmarks"]
    assert "scans" not in first["value"]["resilient"]


def test_only_the_last_state_has_the_verdicts():
    with serving(since) as api:
        run = run_tap(config_for(api.url, PLAIN))
    *others, last = run.of("STATE")
    assert run.messages[-1] is last
    assert last["value"]["resilient"]["scans"] == {"rows": {"verdict": "unproven", "rows": 10}}
    assert not [state for state in others if "scans" in state["value"]["resilient"]]


def test_an_empty_run_keeps_the_bookmark():
    with serving(lambda asked: Answer([])) as api:
        config = config_for(api.url, {**PLAIN, "incremental": SINCE})
        run = run_tap(config, state=state_at("2024-01-09T00:00:00Z"))
    assert run.bookmark("rows") == "2024-01-09T00:00:00Z"


def test_the_first_run_begins_at_start_date_and_an_initial_value_beats_it():
    with serving(since) as api:
        own = {**PLAIN, "name": "own", "incremental": {**SINCE, "initial_value": "2024-01-05T00:00:00Z"}}
        run_tap(config_for(api.url, {**PLAIN, "incremental": SINCE}, own, start_date="2024-01-02"))
    assert sorted(api.params("since")) == ["2024-01-02T00:00:00Z", "2024-01-05T00:00:00Z"]


def test_the_lookback_reads_again_and_the_bookmark_stays():
    with serving(since) as api:
        config = config_for(api.url, {**PLAIN, "incremental": {**SINCE, "lookback": "2d"}})
        run = run_tap(config, state=state_at("2024-01-10T00:00:00Z"))
    assert api.params("since") == ["2024-01-08T00:00:00Z"]
    assert (len(run.records("rows")), run.bookmark("rows")) == (3, "2024-01-10T00:00:00Z")


def test_start_and_end_templates_carry_the_window_in_path_params_and_headers():
    stream = {
        **PLAIN,
        "path": "/from/{start}/rows",
        "params": {"range": "{start}..{end}", "after": "{state.replication_key_value}"},
        "headers": {"X-Since": "{start}"},
        "incremental": {"replication_key": "at", "format": "epoch_s", "initial_value": 0, "end_param": "until"},
    }
    with serving(lambda asked: Answer([])) as api:
        run_tap(config_for(api.url, stream))
    (asked,) = api.log
    assert (asked.path, asked.headers["X-Since"]) == ("/from/0/rows", "0")
    assert asked.params["range"] == f"0..{asked.params['until']}"
    assert "after" not in asked.params


def test_windows_are_read_one_by_one_and_each_moves_the_bookmark():
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=3, hours=1)
    stamps = [(start + datetime.timedelta(hours=h)).strftime("%Y-%m-%dT%H:%M:%SZ") for h in range(0, 72, 6)]

    def window(asked):
        inside = [stamp for stamp in stamps if asked.params["since"] <= stamp < asked.params["until"]]
        return Answer([{"id": stamp, "at": stamp} for stamp in reversed(inside)])

    step = {**SINCE, "end_param": "until", "step": "1d", "row_order": "desc", "initial_value": start.isoformat()}
    with serving(window) as api:
        run = run_tap(config_for(api.url, {**PLAIN, "incremental": step}))
    assert len(api.log) == 4
    assert sorted(api.params("until"))[:-1] == sorted(api.params("since"))[1:]
    assert len(run.records("rows")) == len(stamps)
    assert run.bookmark("rows") == max(stamps)


@pytest.mark.parametrize("order", ["asc", "none"])
def test_a_window_that_is_incomplete_holds_the_bookmark_also_where_later_ones_are_not(order):
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=3)

    def second_is_short(asked):
        short = asked.params["since"] != start.isoformat().replace("+00:00", "Z") and len(api.log) == 2
        return Answer({"data": [{"id": len(api.log), "at": asked.params["since"]}], "total": 5 if short else 1})

    step = {**SINCE, "end_param": "until", "step": "1d", "row_order": order, "initial_value": start.isoformat()}
    paginator = {"type": "single", "total_path": "total"}
    stream = {**PLAIN, "records": {"path": "data"}, "incremental": step, "paginator": paginator}
    with serving(second_is_short) as api:
        run = run_tap(config_for(api.url, stream, concurrency=1))
    assert (run.code, run.verdicts) == (65, {"rows": "incomplete"})
    assert run.bookmark("rows") == run.records("rows")[0]["at"]


def test_a_bookmark_of_another_replication_key_counts_as_none():
    with serving(since) as api:
        run_tap(config_for(api.url, {**PLAIN, "incremental": SINCE}), state=state_at(77, key="seq"))
    assert api.params("since") == [None]


def test_a_bookmark_of_another_type_is_a_clear_error():
    with serving(since) as api:
        run = run_tap(config_for(api.url, {**PLAIN, "incremental": SINCE}), state=state_at({"no": "date"}))
    assert (run.code, api.log) == (78, [])
    assert "reset the state" in str(run.error)


def test_rows_out_of_order_and_values_that_are_none_are_told(caplog):
    data = [{"id": 1, "at": "2024-01-02T00:00:00Z"}, {"id": 2, "at": "2024-01-01T00:00:00Z"}, {"id": 3, "at": "soon"}]
    stream = {**PLAIN, "incremental": {**SINCE, "row_order": "asc"}}
    with serving(lambda asked: Answer(data)) as api, caplog.at_level("WARNING"):
        run = run_tap(config_for(api.url, stream))
    assert run.bookmark("rows") == "2024-01-02T00:00:00Z"
    assert "rows are not sorted as row_order says stream=rows replication_key=at" in caplog.text
    assert 'data quality stream=rows pointer=/at expected="replication value" seen=other count=1' in caplog.text


# Partitions and parents


def test_each_partition_has_its_own_bookmark_and_its_values_in_the_records():
    def regional(asked):
        return Answer(
            [{"id": 1, "at": {"eu": "2024-01-01", "us": "2024-02-01"}[asked.params["region"]] + "T00:00:00Z"}]
        )

    stream = {
        **PLAIN,
        "params": {"region": "{partition.region}"},
        "partitions": [{"region": "eu"}, {"region": "us"}],
        "incremental": SINCE,
    }
    with serving(regional) as api:
        first = run_tap(config_for(api.url, stream))
        run_tap(config_for(api.url, stream), state=first.state)
    assert [record["region"] for record in first.records("rows")] == ["eu", "us"]
    assert context_values(first, "rows") == {
        '{"region": "eu"}': "2024-01-01T00:00:00Z",
        '{"region": "us"}': "2024-02-01T00:00:00Z",
    }
    assert api.params("since")[2:] == ["2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"]


def test_more_than_a_thousand_partitions_share_one_bookmark():
    stream = {
        **PLAIN,
        "params": {"n": "{partition.n}"},
        "partitions": [{"n": n} for n in range(1001)],
        "incremental": SINCE,
    }
    with serving(lambda asked: Answer([{"id": asked.params["n"], "at": "2024-01-05T00:00:00Z"}])) as api:
        first = run_tap(config_for(api.url, stream))
        assert first.state["bookmarks"]["rows"] == {
            "replication_key": "at",
            "replication_key_value": "2024-01-05T00:00:00Z",
        }
        seen = len(api.log)
        run_tap(config_for(api.url, stream), state=first.state)
    assert set(api.params("since")[seen:]) == {"2024-01-05T00:00:00Z"}


CUSTOMERS = [{"id": n, "at": f"2024-01-{n:02d}T00:00:00Z"} for n in range(1, 4)]
CUSTOMER = {
    "name": "customers",
    "path": "/customers",
    "primary_keys": ["id"],
    "incremental": {**SINCE, "row_order": "asc"},
}
ORDER = {
    "name": "orders",
    "path": "/customers/{parent.id}/orders",
    "primary_keys": ["order"],
    "parent": {"stream": "customers", "include": ["id"]},
}


def shop(asked, broken=()):
    if asked.path == "/customers":
        return Answer([c for c in CUSTOMERS if c["at"] >= asked.params.get("since", "")])
    customer = int(asked.path.split("/")[2])
    if customer in broken:
        return Answer({"error": "gone"})
    return Answer([{"order": f"{customer}-{n}", "at": f"2024-02-{customer:02d}T00:00:00Z"} for n in range(2)])


def test_children_are_read_for_every_parent_record_and_get_its_fields():
    with serving(shop) as api:
        run = run_tap(config_for(api.url, CUSTOMER, ORDER))
    assert (run.code, len(run.records("customers"))) == (0, 3)
    assert [(r["_customers_id"], r["order"]) for r in run.records("orders")] == [
        (c, f"{c}-{n}") for c in (1, 2, 3) for n in range(2)
    ]
    assert len(run.of("SCHEMA", "orders")) == 1


def test_children_want_all_parents_unless_they_depend_on_the_changed_ones():
    dependent = {**ORDER, "parent": {**ORDER["parent"], "incremental_dependency": True}}
    state = state_at("2024-01-03T00:00:00Z", "customers")
    with serving(shop) as api:
        whole = run_tap(config_for(api.url, CUSTOMER, ORDER), state=state)
        changed = run_tap(config_for(api.url, CUSTOMER, dependent), state=state)
    assert (len(whole.records("orders")), len(changed.records("orders"))) == (6, 2)
    assert whole.bookmark("customers") == changed.bookmark("customers") == "2024-01-03T00:00:00Z"


def test_children_keep_a_bookmark_for_each_parent_or_one_for_all():
    incremental = {"incremental": {**SINCE, "row_order": "asc"}}
    one = {**ORDER, **incremental, "parent": {**ORDER["parent"], "state": "global"}}
    with serving(shop) as api:
        each = run_tap(config_for(api.url, CUSTOMER, {**ORDER, **incremental}))
        shared = run_tap(config_for(api.url, CUSTOMER, one))
    assert context_values(each, "orders") == {
        f'{{"_customers_id": {n}}}': f"2024-02-{n:02d}T00:00:00Z" for n in (1, 2, 3)
    }
    assert shared.state["bookmarks"]["orders"] == {
        "replication_key": "at",
        "replication_key_value": "2024-02-03T00:00:00Z",
    }


def test_a_failed_child_lets_its_parent_go_on_but_holds_the_bookmark_it_depends_on():
    dependent = {**ORDER, "parent": {**ORDER["parent"], "incremental_dependency": True}, "records": {"path": "@"}}
    with serving(lambda asked: shop(asked, broken=(2,))) as api:
        run = run_tap(config_for(api.url, CUSTOMER, dependent))
    assert run.code == 69
    assert len(run.records("customers")) == 3
    assert run.verdicts["orders"] == "incomplete"
    assert run.bookmark("customers") is None


def test_a_parent_value_is_url_encoded_in_the_path():
    def odd(asked):
        return Answer([{"id": "a/b c"}] if asked.path == "/customers" else [])

    with serving(odd) as api:
        run_tap(config_for(api.url, {**CUSTOMER, "incremental": None}, ORDER))
    assert api.log[-1].path == "/customers/a%2Fb%20c/orders"


def test_a_parent_record_without_the_included_field_makes_the_child_incomplete():
    def nameless(asked):
        return Answer([{"at": "2024-01-01T00:00:00Z"}] if asked.path == "/customers" else [])

    with serving(nameless) as api:
        run = run_tap(config_for(api.url, {**CUSTOMER, "primary_keys": []}, ORDER))
    assert (run.code, run.verdicts["orders"], len(api.log)) == (65, "incomplete", 1)


# Failures


def test_one_failing_stream_does_not_abort_the_others():
    broken = {**PLAIN, "name": "a_broken", "path": "/broken"}
    with serving(lambda asked: Answer({}, 500) if asked.path == "/broken" else since(asked)) as api:
        run = run_tap(config_for(api.url, broken, PLAIN))
    assert (run.code, len(run.records("rows"))) == (69, 10)
    assert run.verdicts == {"a_broken": "incomplete", "rows": "unproven"}


def test_refused_credentials_end_the_run_at_once_and_without_the_end_marker():
    with serving(lambda asked: Answer({}, 401)) as api:
        run = run_tap(config_for(api.url, PLAIN, {**PLAIN, "name": "other"}))
    assert run.code == 77
    assert "scans" not in run.state["resilient"]


def test_a_wait_beyond_the_limit_stops_cleanly_with_what_was_read_bookmarked():
    def limited(asked):
        if asked.params["page"] == "3":
            return Answer({}, 429, {"Retry-After": "86400"})
        first = (int(asked.params["page"]) - 1) * 3
        return Answer(ROWS[first : first + 3])

    stream = {**PLAIN, "paginator": {"type": "page"}, "incremental": {**SINCE, "row_order": "asc"}}
    with serving(limited) as api:
        run = run_tap(config_for(api.url, stream))
    assert (run.code, len(run.records("rows")), run.bookmark("rows")) == (75, 6, "2024-01-06T00:00:00Z")
    assert "scans" not in run.state["resilient"]


# Error handlers that act on the scan


def test_shrink_page_halves_the_limit_until_the_page_comes():
    def heavy(asked):
        limit, offset = int(asked.params["limit"]), int(asked.params["offset"])
        return Answer({}, 500) if limit > 3 else Answer(ROWS[offset : offset + limit])

    paginator = {"type": "offset", "limit_param": "limit", "page_size": 8, "on_error": "shrink_page"}
    with serving(heavy) as api:
        run = run_tap(config_for(api.url, {**PLAIN, "paginator": paginator}))
    assert (run.code, [record["id"] for record in run.records("rows")]) == (0, list(range(1, 11)))
    assert api.params("limit")[-1] == "2"


def test_split_window_reads_the_halves():
    def crowded(asked):
        inside = [row for row in ROWS if asked.params["since"] <= row["at"] < asked.params["until"]]
        return Answer({"error": "too many"}, 400) if len(inside) > 4 else Answer(inside)

    stream = {
        **PLAIN,
        "incremental": {**SINCE, "end_param": "until", "initial_value": "2024-01-01T00:00:00Z"},
        "error_handler": [{"when": "status == `400`", "action": "split_window"}],
    }
    with serving(crowded) as api:
        run = run_tap(config_for(api.url, stream))
    assert run.code == 0
    assert {record["id"] for record in run.records("rows")} == set(range(1, 11))


def test_skip_page_goes_on_and_is_not_called_complete():
    def holed(asked):
        page = int(asked.params["page"])
        return Answer({}, 410) if page == 2 else Answer(ROWS[(page - 1) * 3 : page * 3])

    stream = {
        **PLAIN,
        "paginator": {"type": "page"},
        "error_handler": [{"when": "status == `410`", "action": "skip_page"}],
    }
    with serving(holed) as api:
        run = run_tap(config_for(api.url, stream))
    assert (run.code, run.verdicts) == (0, {"rows": "unproven"})
    assert [record["id"] for record in run.records("rows")] == [1, 2, 3, 7, 8, 9, 10]


def test_skip_partition_leaves_one_out_and_does_not_move_its_bookmark():
    def regional(asked):
        return Answer({}, 410) if asked.params["region"] == "eu" else Answer(ROWS[:1])

    stream = {
        **PLAIN,
        "params": {"region": "{partition.region}"},
        "partitions": [{"region": "eu"}, {"region": "us"}],
        "incremental": SINCE,
        "error_handler": [{"when": "status == `410`", "action": "skip_partition"}],
    }
    with serving(regional) as api:
        run = run_tap(config_for(api.url, stream))
    assert (run.code, run.verdicts) == (0, {"rows": "unproven"})
    assert list(context_values(run, "rows")) == ['{"region": "us"}']


def test_an_action_that_is_not_possible_here_is_a_clear_failure():
    stream = {**PLAIN, "error_handler": [{"when": "status == `410`", "action": "split_window"}]}
    with serving(lambda asked: Answer({}, 410)) as api:
        run = run_tap(config_for(api.url, stream))
    assert run.code == 69
    assert "split_window at status 410" in str(run.error)


# Records


def test_fields_map_to_the_model_and_wrong_types_are_told_and_passed_on(caplog):
    data = [{"id": 1, "cust": {"id": "7"}, "amount": "1.50"}, {"id": 2, "cust": None, "amount": [1]}, {"id": 3}]
    stream = {
        **PLAIN,
        "fields": {
            "customer": {"from": "cust.id", "type": "integer"},
            "amount": {"type": "decimal", "default": None},
            "key": {"from": "id"},
        },
        "primary_keys": ["key"],
    }
    with serving(lambda asked: Answer(data)) as api, caplog.at_level("WARNING"):
        run = run_tap(config_for(api.url, stream))
    assert run.code == 0
    assert run.records("rows") == [
        {"cust": {"id": "7"}, "customer": 7, "amount": 1.5, "key": 1},
        {"cust": None, "amount": [1], "key": 2},
        {"amount": None, "key": 3},
    ]
    (event,) = [line for line in caplog.messages if line.startswith("data quality")]
    assert "pointer=/amount expected=decimal seen=array count=1" in event


def test_soft_deletes_are_marked_with_their_time():
    data = [{"id": 1, "gone": "2024-01-01T00:00:00Z"}, {"id": 2, "gone": None}, {"id": 3, "gone": True}]
    stream = {**PLAIN, "deletes": {"mode": "soft", "field": "gone"}}
    with serving(lambda asked: Answer(data)) as api:
        run = run_tap(config_for(api.url, stream))
    marks = [record.get("_sdc_deleted_at") for record in run.records("rows")]
    assert marks[:2] == ["2024-01-01T00:00:00Z", None]
    assert marks[2] > "2024"
    assert "_sdc_deleted_at" in run.schema("rows")["properties"]


def test_soft_deletes_by_predicate():
    stream = {**PLAIN, "deletes": {"mode": "soft", "when": "name == 'n2'"}}
    with serving(since) as api:
        run = run_tap(config_for(api.url, stream))
    assert [record["id"] for record in run.records("rows") if "_sdc_deleted_at" in record] == [2]


def test_a_contract_goes_out_raw_and_new_fields_are_told(tmp_path, caplog):
    contract = {
        "type": "object",
        "$defs": {"x": {"const": 1}},
        "x-contract": {"version": "1.0.0", "owner": "shop"},
        "properties": {"id": {"type": "integer", "x-pii": False}, "at": {"type": "string"}, "name": {"type": "string"}},
        "if": {"required": ["id"]},
        "then": {"minProperties": 1},
    }
    (tmp_path / "rows.json").write_text(json.dumps(contract))
    with serving(since) as api, caplog.at_level("WARNING"):
        run = run_tap(config_for(api.url, {**PLAIN, "schema": {"contract": str(tmp_path / "rows.json")}}))
    assert run.schema("rows") == contract
    assert [line for line in caplog.messages if line.startswith("drift")] == [
        "drift stream=rows new_or_changed_fields=cust"
    ]


def test_an_inferred_schema_grows_in_mid_stream_before_the_record_that_needs_it():
    pages = {
        "1": [{"id": 1, "a": None}],
        "2": [{"id": 2, "a": 1, "b": "2024-01-01T00:00:00Z"}],
        "3": [{"id": 3, "a": "x"}],
    }
    stream = {**PLAIN, "paginator": {"type": "page"}}
    with serving(lambda asked: Answer(pages.get(asked.params["page"], []))) as api:
        run = run_tap(config_for(api.url, stream))
    kinds = [m["type"] for m in run.messages if m["type"] != "STATE"]
    assert kinds == ["SCHEMA", "RECORD"] * 3
    assert run.schema("rows")["properties"] == {
        "id": {"type": ["integer"]},
        "a": {"type": ["integer", "string", "null"]},
        "b": {"type": ["string", "null"], "format": "date-time"},
    }


def test_numbers_stay_exact_from_the_wire_to_the_message():
    body = b'[{"id": 123456789012345678901234567890, "x": 0.1234567890123456789, "y": 1.10}]'
    with serving(lambda asked: Answer(body)) as api:
        lines = raw_tap(config_for(api.url, PLAIN))
    assert b'"id":123456789012345678901234567890,"x":0.1234567890123456789,' in lines


def test_the_extraction_log_has_one_record_a_stream():
    with serving(since) as api:
        run = run_tap(config_for(api.url, PLAIN, {**PLAIN, "name": "more"}, extraction_log=True))
    log = {record["stream"]: record for record in run.records("extraction_log")}
    assert set(log) == {"rows", "more"}
    assert (log["rows"]["rows"], log["rows"]["verdict"], log["rows"]["requests"]) == (10, "unproven", 1)


# Requests


def test_a_post_read_carries_paging_and_start_in_its_body():
    def graph(asked):
        after = asked.body["variables"].get("after")
        page = ROWS[:5] if after is None else ROWS[5:]
        return Answer({"data": {"rows": page, "next": None if after else "p2"}})

    stream = {
        **PLAIN,
        "method": "POST",
        "json": {"query": "{ rows {id} }", "variables": {"first": 5}},
        "records": {"path": "data.rows"},
        "paginator": {"type": "cursor", "cursor_param": "variables.after", "cursor_path": "data.next"},
        "incremental": {**SINCE, "start_param": "variables.since", "initial_value": "2024-01-01T00:00:00Z"},
    }
    with serving(graph) as api:
        run = run_tap(config_for(api.url, stream))
    assert (run.code, len(run.records("rows")), run.verdicts) == (0, 10, {"rows": "complete"})
    assert [asked.body["variables"] for asked in api.log] == [
        {"first": 5, "since": "2024-01-01T00:00:00Z"},
        {"first": 5, "since": "2024-01-01T00:00:00Z", "after": "p2"},
    ]
    assert api.log[0].params == {}


def test_a_next_url_is_resolved_against_the_page_and_keeps_its_own_parameters():
    def linked(asked):
        return Answer({"data": ROWS[:5], "next": "?page=two"} if "page" not in asked.params else {"data": ROWS[5:]})

    stream = {
        **PLAIN,
        "params": {"size": 5},
        "records": {"path": "data"},
        "paginator": {"type": "next_url", "next_url_path": "next"},
    }
    with serving(linked) as api:
        run = run_tap(config_for(api.url, stream))
    assert (len(run.records("rows")), run.verdicts) == (10, {"rows": "complete"})
    assert (api.log[1].path, api.log[1].params) == ("/rows", {"page": "two"})


def test_an_offset_advances_by_the_rows_received():
    def capped(asked):
        offset = int(asked.params["offset"])
        return Answer({"data": ROWS[offset : offset + 4], "total": 10})

    paginator = {"type": "offset", "limit_param": "limit", "page_size": 100, "total_path": "total"}
    stream = {**PLAIN, "records": {"path": "data"}, "paginator": paginator}
    with serving(capped) as api:
        run = run_tap(config_for(api.url, stream, concurrency=1))
    assert [record["id"] for record in run.records("rows")] == list(range(1, 11))
    assert api.params("offset") == ["0", "3", "6", "9"]  # each request begins at the last row received


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_server_that_only_knows_offsets_of_whole_pages_is_read_whole(size):
    def aligned(asked):
        first = int(asked.params["offset"]) // size * size
        return Answer(ROWS[first : first + size])

    paginator = {"type": "offset", "limit_param": "limit", "page_size": size}
    with serving(aligned) as api:
        run = run_tap(config_for(api.url, {**PLAIN, "paginator": paginator}))
    assert (run.code, [record["id"] for record in run.records("rows")]) == (0, list(range(1, 11)))


def test_a_missing_path_is_empty_only_where_that_is_said():
    stream = {**PLAIN, "records": {"path": "data", "on_missing_path": "empty"}}
    with serving(lambda asked: Answer({})) as api:
        run = run_tap(config_for(api.url, stream))
    assert (run.code, run.records("rows")) == (0, [])


# Reconciliation


def kept(asked):
    """All rows but the fifth, which the source has deleted."""
    rows = [row for row in ROWS if row["id"] != 5 and row["at"] >= asked.params.get("since", "")]
    return Answer({"data": rows, "total": len(rows)})


RECONCILED = {
    **PLAIN,
    "records": {"path": "data"},
    "paginator": {"type": "single", "total_path": "total"},
    "incremental": SINCE,
    "deletes": {"mode": "reconcile", "every": "7d", "max_delete_ratio": 0.1},
}


def test_all_keys_are_read_anew_for_the_target_to_find_what_is_gone():
    with serving(kept) as api:
        run = run_tap(config_for(api.url, RECONCILED), state=state_at("2024-01-09T00:00:00Z"))
    schema = run.schema("rows__keys")
    assert (schema["x-reconciles"], schema["x-max-delete-ratio"], schema["required"]) == ("rows", 0.1, ["id"])
    assert [record["id"] for record in run.records("rows")] == [9, 10]
    assert run.records("rows__keys") == [{"id": n} for n in range(1, 11) if n != 5]
    assert run.verdicts == {"rows": "complete", "rows__keys": "complete"}


def test_the_keys_are_read_again_only_when_their_time_has_come():
    with serving(kept) as api:
        config = config_for(api.url, RECONCILED)
        first = run_tap(config)
        second = run_tap(config, state=first.state)
        late = {**second.state["resilient"], "reconciled": {"rows": "2020-01-01T00:00:00Z"}}
        third = run_tap(config, state={**second.state, "resilient": late})
    assert [len(run.records("rows__keys")) for run in (first, second, third)] == [9, 0, 9]
    assert "rows__keys" not in second.verdicts


@pytest.mark.parametrize("fault", [Answer({}, 500), Answer({"data": ROWS[:2], "total": 9})], ids=["fails", "short"])
def test_keys_that_did_not_all_come_are_incomplete_and_read_again_next_time(fault):
    with serving(lambda asked: kept(asked) if len(api.log) == 1 else fault) as api:
        run = run_tap(config_for(api.url, RECONCILED))
    assert (run.code in (65, 69), run.verdicts["rows__keys"]) == (True, "incomplete")
    assert "reconciled" not in run.state["resilient"]
    assert run.bookmark("rows") == "2024-01-10T00:00:00Z"


def test_a_stream_that_is_not_selected_has_no_keys():
    with serving(kept) as api:
        config = config_for(api.url, RECONCILED)
        unselected = [{"breadcrumb": [], "metadata": {"selected": False}}]
        entry = {"tap_stream_id": "rows", "stream": "rows", "schema": {"properties": {}}, "metadata": unselected}
        run = run_tap(config, catalog={"streams": [entry]})
    assert (api.log, run.of("SCHEMA")) == ([], [])
