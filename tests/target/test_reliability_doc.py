"""docs/reliability.md names its evidence; the evidence must exist."""

from __future__ import annotations

import re

from tests.target.zygote import ROOT


def test_every_test_that_the_document_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    written = {name for path in (ROOT / "tests" / "target").glob("test_*.py")
               for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}  # fmt: skip
    assert len(named) > 30
    assert named - written == set()
