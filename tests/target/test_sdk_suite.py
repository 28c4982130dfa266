"""The SDK's own target suites on both backends: once with bad records failing, once with bad records quarantined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from singer_sdk.testing import get_target_test_class
from singer_sdk.testing.runners import TargetTestRunner
from singer_sdk.testing.suites import SingerTestSuite, target_tests
from singer_sdk.testing.target_tests import (
    TargetEncodedStringData,
    TargetMultipleStateMessages,
    TargetRecordMissingKeyProperty,
    TargetRecordMissingRequiredProperty,
)

from resilient_core.errors import DataRefusedError
from target_resilient.target import TargetResilient


class MultipleStates(TargetMultipleStateMessages):
    """States 1, 3 and 5 of five come out with `batch_size_rows: 4` (the SDK's runner parses them; compare parsed)."""

    def test(self) -> None:
        self.runner.sync_all()
        assert self.runner.state_messages == [
            json.loads(f'{{"test_multiple_state_messages_a": {a}, "test_multiple_state_messages_b": {b}}}')
            for a, b in ((1, 0), (3, 2), (5, 6))
        ]


class MissingKeyIsKeptAside(TargetRecordMissingKeyProperty):
    """Under quarantine a record without its key is no error."""

    def test(self) -> None:
        self.runner.sync_all()


class NulFails(TargetEncodedStringData):
    """NUL is refused alike on every backend, so under `fail` this file stops the load."""

    def test(self) -> None:
        with pytest.raises(DataRefusedError, match="nul"):
            self.runner.sync_all()


def suite(**replaced: type[Any]) -> SingerTestSuite[Any]:
    """The SDK's suite with some tests replaced and the two that it leaves out."""
    tests = [replaced.pop(test.__name__, test) for test in target_tests.tests]
    return SingerTestSuite(kind="target", tests=[*tests, MultipleStates, *replaced.values()])


Failing = get_target_test_class(
    TargetResilient, custom_suites=[suite(TargetEncodedStringData=NulFails)], include_target_tests=False
)
Quarantining = get_target_test_class(
    TargetResilient,
    custom_suites=[suite(TargetRecordMissingKeyProperty=MissingKeyIsKeptAside,
                         TargetRecordMissingRequiredProperty=TargetRecordMissingRequiredProperty)],
    include_target_tests=False,
)  # fmt: skip


def runner(destination: str, policy: str) -> Iterator[TargetTestRunner]:
    config = {"destination": destination, "batch_size_rows": 4, "on_bad_record": policy}
    found = TargetTestRunner(target_class=TargetResilient, config=config, parse_env_config=True)
    yield found
    if found._input is not None:  # the SDK opens the .singer file and never closes it
        found._input.close()


class TestFailing(Failing):  # type: ignore[misc, valid-type]
    @pytest.fixture
    def runner(self, destination: str) -> Iterator[TargetTestRunner]:
        yield from runner(destination, "fail")


class TestQuarantining(Quarantining):  # type: ignore[misc, valid-type]
    @pytest.fixture
    def runner(self, destination: str) -> Iterator[TargetTestRunner]:
        yield from runner(destination, "quarantine")


del Failing, Quarantining
