"""The inferred schema: the types seen, plus null; instants only when all are."""

from tap_resilient.infer import InferredSchema


def learned(*pages, keys=()):
    schema = InferredSchema(keys)
    return schema, [schema.learn(page) for page in pages]


def test_types_widen_as_they_come_and_each_widening_is_told_once():
    schema, changes = learned([{"a": 1}], [{"a": 2}], [{"a": 1.5}], [{"a": None, "b": [1]}], [{"a": 3, "b": None}])
    assert changes == [["a"], [], ["a"], ["b"], []]
    assert schema.schema["properties"] == {"a": {"type": ["number", "null"]}, "b": {"type": ["array", "null"]}}


def test_keys_are_not_nullable():
    assert learned([{"id": 1}], keys=["id"])[0].schema["properties"] == {"id": {"type": ["integer"]}}


def test_a_column_of_nulls_stays_open():
    schema, _ = learned([{"a": None}], [{"a": "x"}])
    assert schema.schema["properties"] == {"a": {"type": ["string", "null"]}}


def test_strings_are_instants_only_if_all_of_them_are():
    instants = [{"a": "2024-01-01T00:00:00Z"}, {"a": "2024-01-01T00:00:00.5+02:00"}, {"a": None}]
    assert learned(instants)[0].schema["properties"]["a"] == {"type": ["string", "null"], "format": "date-time"}
    for other in ("2024-01-01", "2024-01-01T00:00:00", "soon", ""):
        assert "format" not in learned([*instants, {"a": other}])[0].schema["properties"]["a"]


def test_a_text_column_does_not_become_instants_later():
    schema, _ = learned([{"a": "soon"}], [{"a": "2024-01-01T00:00:00Z", "b": 1}])
    assert schema.schema["properties"]["a"] == {"type": ["string", "null"]}


def test_it_grows_from_a_catalogs_schema():
    schema = InferredSchema(["id"], {"properties": {"id": {"type": "integer"}, "a": {"type": ["string", "null"]}}})
    assert schema.knows_fields
    assert schema.learn([{"id": 1, "a": "x"}]) == ["id"]
    assert schema.learn([{"id": 1, "a": 5}]) == ["a"]
