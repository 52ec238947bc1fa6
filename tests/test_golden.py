"""Files that pyEDFlib (EDFlib), edfio, MNE and wfdb wrote are read as those packages read them; see tests/golden."""

import json
from datetime import datetime

import numpy as np
import pytest

from recordings.signal_files import read_signals
from utils import ROOT

GOLDEN = ROOT / "tests" / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(params=EXPECTED)
def pair(request):
    """What is read, and what the other package has read."""
    if request.param.endswith(".hea"):
        pytest.importorskip("wfdb", reason="pip install -r requirements-formats.txt")
    return read_signals(GOLDEN / request.param), EXPECTED[request.param]


def test_values_times_and_units_are_those_of_another_reader(pair):
    found, expected = pair
    assert list(found.signals) == list(expected["signals"])
    for name, signal in expected["signals"].items():
        values = np.array(signal["values"])
        np.testing.assert_allclose(found.signals[name].values, values, rtol=0, atol=1e-9 * np.ptp(values))
        np.testing.assert_allclose(found.signals[name].t, np.arange(len(values)) / signal["rate_hz"], atol=1e-9)
        assert found.signals[name].unit == signal["unit"]


def test_start_and_annotations_are_those_of_another_reader(pair):
    found, expected = pair
    assert found.start == datetime.fromisoformat(expected["start"])
    annotations = sorted((a.at_s, a.duration_s or 0.0, a.text) for a in found.annotations)
    assert [text for *_, text in annotations] == [text for *_, text in expected["annotations"]]
    np.testing.assert_allclose([a[:2] for a in annotations], [a[:2] for a in expected["annotations"]], atol=1e-6)
