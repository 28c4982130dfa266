"""Templates: names put in place, nothing evaluated."""

import pytest

from tap_resilient.paths import MISSING, Path
from tap_resilient.templates import Scope, render, render_path

SCOPE = Scope(parent={"id": 7}, partition={"region": "e/u"}, state={"x": None}, start="s", end=None)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{parent.id}", 7),
        ("n-{parent.id}", "n-7"),
        ("{end}", None),
        ("a{end}b", "ab"),
        ("{start}", "s"),
        ("{state.x}", None),
        ({"a": ["{parent.id}", {"b": "{partition.region}"}]}, {"a": [7, {"b": "e/u"}]}),
        ("{parent.nothing}", None),
        ("{__class__}", "{__class__}"),
        ("{start.__class__}", "{start.__class__}"),
        ("{ viewer {id} }", "{ viewer {id} }"),
        (5, 5),
    ],
)
def test_templates_are_replaced_and_nothing_else(template, rendered):
    assert render(template, SCOPE) == rendered


def test_values_in_a_path_are_url_encoded():
    assert render_path("/r/{partition.region}/{parent.id}", SCOPE) == "/r/e%2Fu/7"


@pytest.mark.parametrize(
    ("path", "data", "found"),
    [
        ("@", [1], [1]),
        ("a.b", {"a": {"b": None}}, None),
        ("a.b", {"a": {}}, MISSING),
        ("a.b", {"a": []}, MISSING),
        ("a.b", None, MISSING),
        ("a[0].b", {"a": [{"b": 1}]}, 1),
        ("a[0].b", {"a": []}, MISSING),
        ("length(a)", {"a": 5}, MISSING),
    ],
)
def test_a_path_finds_nulls_tells_what_is_missing_and_never_raises(path, data, found):
    assert Path(path).find(data) is found or Path(path).find(data) == found
