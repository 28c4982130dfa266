"""The source file: what it takes, and how it names everything that is wrong with it at once."""

import json

import pytest

from resilient_core.errors import ConfigError
from tap_resilient.source import deep_merge, load_source

CLIENT = {"base_url": "https://api.example.com"}
ORDERS = {"name": "orders", "path": "/orders"}


def faults(config):
    with pytest.raises(ConfigError) as caught:
        load_source(config)
    return {fault.where: fault.message for fault in caught.value.faults}


def one(**stream):
    return {"client": CLIENT, "streams": [{**ORDERS, **stream}]}


def test_the_design_example_loads(tmp_path):
    (tmp_path / "orders.json").write_text(json.dumps({"type": "object", "properties": {"order_id": {}}}))
    (tmp_path / "source.yaml").write_text(
        """
        version: 1
        client:
          base_url: "{config.base_url}"
          auth: {type: bearer, token: ref+env://API_TOKEN}
        defaults: {params: {per_page: 100}}
        streams:
        - name: customers
          path: /customers
        - name: orders
          path: "/customers/{parent.id}/orders"
          params: {region: eu}
          records: {path: result.items}
          paginator: {type: offset, limit_param: limit, page_size: 50, on_error: shrink_page}
          primary_keys: [order_id]
          incremental: {replication_key: updated_at, type: datetime, start_param: since, end_param: until,
                        initial_value: "2024-01-01T00:00:00Z", step: 1d, lookback: 10m, row_order: asc}
          parent: {stream: customers, include: [id], incremental_dependency: true, state: global}
          fields: {customer_id: {from: cust.id, type: string}, amount: {type: decimal, default: null}}
          schema: {contract: orders.json}
          deletes: {mode: soft, field: deleted_at}
          error_handler:
          - {when: "status == `403`", action: rate_limited}
          probe: {path: /me}
        """
    )
    source = load_source(
        {
            "source": str(tmp_path / "source.yaml"),
            "config": {"base_url": "https://api.example.com"},
            "start_date": "2020",
        }
    )
    orders = source.streams[1]
    assert source.client.base_url == "https://api.example.com"
    assert orders.params == {"per_page": 100, "region": "eu"}
    assert orders.contract.schema["properties"] == {"order_id": {}}
    assert (orders.incremental.step, orders.incremental.lookback) == (86400.0, 600.0)
    assert orders.fields[1].default is None


def test_all_faults_come_at_once_with_the_nearest_known_names():
    found = faults(
        {
            "client": {"base_url": "no url", "retrys": {}},
            "defaultz": {},
            "streams": [
                {"name": "a", "pth": "/", "paginator": {"type": "curser"}, "records": {"path": "a["}},
                {"name": "a", "path": "/{parent.x}/{strat}", "incremental": {"replication_key": "x", "lookback": 5}},
            ],
        }
    )
    assert found["client.retrys"] == "unknown setting; did you mean 'retry'?"
    assert "did you mean 'path'" in found["streams[0].pth"]
    assert "did you mean 'cursor'" in found["streams[0].paginator.type"]
    assert "JMESPath" in found["streams[0].records.path"]
    assert "unit" in found["streams[1].incremental.lookback"]
    assert {"client.base_url", "streams[0].path", "streams[1].name", "streams[1].path"} <= set(found)


def test_an_unknown_paginator_without_a_near_name_lists_the_known_ones():
    assert (
        "known: cursor, header_link, next_url, offset, page, single"
        in faults(one(paginator={"type": "zzz"}))["streams[0].paginator.type"]
    )


def test_faults_never_quote_a_value():
    message = " ".join(faults(one(params="s3cret", method="s3cret", partitions="s3cret")).values())
    assert message
    assert "s3cret" not in message


def test_only_a_stream_with_keys_of_its_own_can_be_reconciled():
    found = faults(one(deletes={"mode": "reconcile"}, parent={"stream": "x"}))
    assert "primary_keys" in found["streams[0].deletes.mode"] or "parent" in found["streams[0].deletes.mode"]
    assert "primary_keys" in faults(one(deletes={"mode": "reconcile"}))["streams[0].deletes.mode"]


@pytest.mark.parametrize(
    ("stream", "where", "words"),
    [
        ({"params": {"x": "{confg.y}"}}, "streams[0].params", "did you mean 'config'"),
        ({"params": {"x": "{start}"}}, "streams[0].params", "incremental"),
        ({"path": "/{parent.id}"}, "streams[0].path", "parent"),
        ({"json": {"q": 1}}, "streams[0].json", "POST"),
        ({"parent": {"stream": "order"}}, "streams[0].parent.stream", "did you mean 'orders'"),
        ({"parent": {"stream": "orders"}}, "streams[0].parent.stream", "ancestor"),
        ({"paginator": {"type": "page", "size_param": "n"}}, "streams[0].paginator.page_size", "required"),
        ({"paginator": {"type": "cursor", "cursor_param": "c"}}, "streams[0].paginator", "one of them"),
        ({"deletes": {"mode": "soft"}}, "streams[0].deletes", "field or when"),
        (
            {"incremental": {"replication_key": "i", "type": "integer", "step": "1d"}},
            "streams[0].incremental.step",
            "type",
        ),
        ({"incremental": {"replication_key": "i", "format": "epoch"}}, "streams[0].incremental.format", "epoch_s"),
        (
            {"incremental": {"replication_key": "i", "initial_value": "x"}},
            "streams[0].incremental.initial_value",
            "type",
        ),
        ({"schema": {"contract": "nowhere.json"}}, "nowhere.json", "cannot be read"),
        ({"fields": {"a": {"type": "int"}}}, "streams[0].fields.a.type", "one of"),
        ({"primary_keys": [1]}, "streams[0].primary_keys", "field names"),
        ({"error_handler": [{"when": "a[", "action": "retry"}]}, "streams[0].error_handler[0].when", "JMESPath"),
    ],
)
def test_each_fault_names_its_place_and_what_to_do(stream, where, words):
    found = faults(one(**stream))
    place = next(name for name in found if name.endswith(where))
    assert words in found[place]


def test_config_variables_keep_their_type_and_stand_within_strings():
    source = load_source(
        {
            "config": {"regions": [{"region": "eu"}, {"region": "us"}], "host": "example.com", "n": 7},
            "client": {"base_url": "https://{config.host}/v1"},
            "streams": [{**ORDERS, "partitions": "{config.regions}", "params": {"size": "{config.n}"}}],
        }
    )
    assert source.client.base_url == "https://example.com/v1"
    assert source.streams[0].partitions == ({"region": "eu"}, {"region": "us"})
    assert source.streams[0].params == {"size": 7}


def test_an_unknown_variable_names_the_nearest():
    config = {**one(path="/{config.regon}"), "config": {"region": "eu"}}
    assert "did you mean 'region'" in faults(config)["streams[0].path"]


def test_a_secret_within_a_longer_string_is_refused():
    config = {**one(params={"key": "Key {config.key}"}), "config": {"key": "ref+env://KEY"}}
    assert "use it as a whole" in faults(config)["streams[0].params.key"]


def test_braces_of_a_graphql_query_are_no_templates():
    query = "{ viewer { repositories(first: 5) {nodes} } }"
    source = load_source(one(method="POST", json={"query": query}))
    assert source.streams[0].json == {"query": query}


def test_a_source_file_beside_inline_keys_is_refused():
    assert "beside `source`" in faults({"source": "x.yaml", "client": CLIENT})["client"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not valid YAML (line"), ("- a", "one mapping"), (None, "cannot be read")],
)
def test_a_source_file_that_cannot_be_used_is_named(tmp_path, text, words):
    path = tmp_path / "source.yaml"
    if text is not None:
        path.write_text(text)
    assert words in faults({"source": str(path)})[str(path)]


def test_the_fingerprint_follows_the_streams_and_not_the_credentials():
    def fingerprint(token, path):
        auth = {"type": "bearer", "token": token}
        return load_source({"client": {**CLIENT, "auth": auth}, "streams": [{**ORDERS, "path": path}]}).fingerprint

    assert fingerprint("one-token", "/a") == fingerprint("other-token", "/a") != fingerprint("one-token", "/b")


def test_the_extraction_log_must_not_hide_a_stream_of_that_name():
    config = {"client": CLIENT, "streams": [{**ORDERS, "name": "extraction_log"}], "extraction_log": True}
    assert "stream of that name" in faults(config)["extraction_log"]


def test_objects_merge_deeply_and_anything_else_is_replaced():
    assert deep_merge({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2]},
        "d": {"e": 1},
    }
