"""The soak of live detection on minutes of a signal, and that its verdict sees what is missing."""

import re

import pytest
import tiny
import warm

from benchmarks import soak
from benchmarks.soak import DAMAGING, TRACELESS, Faulted, Found, compare
from config import DATASET_CONFIG, load_dataset_config
from recordings import preprocessing
from recordings.simulator import session_csv, simulate_session

pytestmark = pytest.mark.robustness

RATE_HZ = 2.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small detector of the simulator's six channels at half the usual rate, calibrated but not trained."""
    folder, data = tmp_path_factory.mktemp("soak"), load_dataset_config(DATASET_CONFIG, "simulated")
    data = data.model_copy(update={"rate_hz": RATE_HZ})
    (folder / "normal.csv").write_text(session_csv(simulate_session(1, 10).frame))
    recording = preprocessing.load_recording(folder / "normal.csv", "session_13", data)
    return tiny.save_detector(folder / "f.pt", [preprocessing.on_grid(recording, data, []).values], tiny.CONFIG, data)


def test_every_fault_is_survived_and_leaves_the_rest_alone(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(soak, "EVERY", 2)
    monkeypatch.setattr("subprocess.Popen", warm.Popen)
    minutes = 2 * max(len(DAMAGING), len(TRACELESS))
    out = tmp_path / "soak.png"
    code = soak.main(["--checkpoint", str(checkpoint), "--hours", str(minutes / 60), "--out", str(out)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.count("exit code 0") == 2
    assert f"{minutes} faults of {len(DAMAGING) + len(TRACELESS)} kinds, {minutes // 2} of them damaging" in said
    outside, steps = (float(text) for text in re.search(r"([\d.]+)% of (\d+) steps lie outside: 0 lost", said).groups())
    assert outside > 20 and steps > 0.98 * RATE_HZ * 60 * minutes
    assert int(re.search(r"(\d+) of \d+ undisturbed events lie outside .*: 0 missed, 0 added", said)[1]) > 0
    assert out.stat().st_size > 1000


def test_an_event_that_is_missed_outside_the_faulted_spans_is_told():
    made = [Faulted("no rows for 10 s", 100.0, 110.0), Faulted("binary junk", 400.0, 400.0)]
    scores = {float(t): 1.0 for t in range(1000)}
    plain = Found([(120.0, 130.0, "lstm", "flow"), (390.0, 410.0, "lstm", "flow")], scores)
    for events, right in [
        ([(395.0, 396.0, "lstm", "flow")], True),                        # what is behind the gap does not count
        ([(395.0, 396.0, "signal_loss", "flow")], False),
        ([(395.0, 396.0, "lstm", "flow"), (700.0, 701.0, "lstm", "flow")], False),
        ([], False),
    ]:
        assert compare(plain, Found(events, scores), made, 50.0)[1] is right
    fewer = {t: score for t, score in scores.items() if t != 500.0}
    assert not compare(plain, Found(plain.events, fewer), made, 50.0)[1]
