"""The gallery: from tables and arrays of finished runs, the usual event of each kind."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import gallery
from reports.run_folder import RunFolder
from reports.run_view import RunView
from utils import ROOT, DataError

KINDS = ("apnea", "apnea", "apnea", "cough")
FOUND = ("lstm", "lstm", "lstm", "")
PEAKS = (5.0, 9.0, 7.0, 1.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of one recording: an event every 100 s, with the scores above, and a false alarm at 450 s."""
    t = np.arange(500.0)
    values = np.sin(t)[:, None]
    score = np.zeros(500)
    for k, peak in enumerate(PEAKS):
        score[20 + 100 * k] = peak
    signals = {"t": t, "values": values, "forecast": values, "score": score, "threshold": np.full(500, 3.0)}
    starts = [10.0 + 100 * k for k in range(4)]
    labels = pd.DataFrame({"recording": "r", "start_s": starts, "end_s": np.add(starts, 20), "kind": KINDS,
                           "found_by": FOUND})  # fmt: skip
    alarms = [("r", start, start + 20, "apnea", "lstm", "flow") for start in starts[:3]]
    alarms += [("r", 450.0, 455.0, "", "lstm", "flow"), ("r", 470.0, 480.0, "", "signal_loss", "flow"),
               ("other", 1.0, 2.0, "", "lstm", "flow")]  # fmt: skip
    columns = ["recording", "start_s", "end_s", "overlaps", "found_by", "channel"]
    pd.DataFrame(alarms, columns=columns).to_csv(tmp_path / "alarms.csv", index=False)
    data = {"recordings": [{"name": "r", "is_labelled": True, "lead_s": 1.0}], "is_series": False, "simulated": True,
            "rate_hz": 1.0, "channels": [{"name": "flow", "unit": "L/min"}]}  # fmt: skip
    monkeypatch.setattr(RunView, "signals", lambda self, place: signals)
    return RunView(RunFolder(tmp_path), None, data, {}, {}, labels.iloc[:0], labels, None)


def test_the_view_holds_alarms_labels_and_faults_of_its_recording(run):
    view = gallery.view_of(run, 0)
    assert [is_true for _, _, is_true, _ in view.found] == [True, True, True, False]
    assert view.faults == [(470.0, 480.0, "flow")] and view.note == "simulated data"
    assert [found for *_, found in view.labelled] == [True, True, True, False]


def test_the_event_with_the_median_of_the_highest_scores_is_shown(run):
    views = [gallery.view_of(run, 0)]
    assert gallery.usual(run, views, "apnea", True).start_s == 210.0
    assert gallery.usual(run, views, "cough", False).start_s == 310.0
    assert gallery.usual(run, views, gallery.MISTAKEN, True).start_s == 450.0
    with pytest.raises(DataError, match="no cough that was found to draw"):
        gallery.usual(run, views, "cough", True)


def test_a_picture_is_drawn_for_each_name(run):
    figures = gallery.draw(run, {"all": None, "apnea": ("apnea", True)})
    assert list(figures) == ["all", "apnea"]
    assert figures["apnea"].axes[-1].get_xlim() == (210.0 - 30, 230.0 + 20)


def test_the_page_shows_the_ten_pictures_that_are_there():
    names = [name for wanted in gallery.PICTURES.values() for name in wanted]
    page, folder = (ROOT / "docs" / "gallery.md").read_text(), ROOT / "docs" / "gallery"
    assert len(names) == 10 and all(f"(gallery/{name}.png)" in page for name in names)
    assert {path.stem for path in folder.iterdir()} == set(names)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.5e6
