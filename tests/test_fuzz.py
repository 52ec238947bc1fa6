"""A short run of benchmarks.fuzz, always the same: each input is read, or refused in one line."""

import pytest

from benchmarks.fuzz import fuzz
from benchmarks.fuzz_readers import READERS

pytestmark = pytest.mark.robustness

EXAMPLES = {"report": 12, "training": 25, "stream lines": 15, "stream state": 20, "checkpoint": 25}


@pytest.mark.parametrize("name", READERS)
def test_damaged_and_crafted_files_are_read_or_refused(name, tmp_path):
    counts = fuzz(name, EXAMPLES.get(name, 60), None, tmp_path)
    assert not counts.crashes
    assert counts.refused > 0 and counts.accepted + counts.refused == counts.tried
