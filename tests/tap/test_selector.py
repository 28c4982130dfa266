"""The records in a body, and what a user is told where there are none."""

import pytest

from tap_resilient.exchange import BadAnswerError
from tap_resilient.paths import Path
from tap_resilient.selector import RecordsSelector

BODY = {"total": 2, "columns": ["id"], "rows": [{"id": 1}, {"id": 2}]}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("@", "'@' holds object, not a list of records; records.path may have to be: rows"),
        ("data", "the answer has no records at 'data'; records.path may have to be: rows"),
        ("columns", "'columns' holds members that are no objects"),
    ],
)
def test_a_wrong_path_names_the_lists_that_the_body_has(path, message):
    with pytest.raises(BadAnswerError) as caught:
        RecordsSelector(Path(path)).select(BODY)
    assert str(caught.value) == message


def test_the_right_path_gives_the_records():
    assert RecordsSelector(Path("rows")).select(BODY) == BODY["rows"]
