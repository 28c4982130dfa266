import pytest

from tap_resilient.tap import ResilientTap


@pytest.fixture(autouse=True)
def _pytest_keeps_its_signals(monkeypatch):
    monkeypatch.setattr(ResilientTap, "_setup_signal_handlers", lambda self: None)
