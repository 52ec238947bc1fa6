"""The report page of hand-made run folders: what it shows, that it is sound HTML, and what it refuses."""

import base64
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from pages import check_sound, facts_of, page_of

from config import EventConfig
from detection.events import FoundEvent
from evaluation.detector_metrics import detector_metrics, fault_measures
from evaluation.results import AreaMeasures, DetectorMetrics, EventMeasures, KindMeasures, RunMetrics, write_metrics
from evaluation.scored_recording import ScoredRecording
from recordings.windowing import EventMeta
from reports import page as report_page
from reports.page import write_report
from reports.plots import plot_history, save
from reports.run_folder import HISTORY, RunFolder, run_files, write_data, write_history
from reports.verdict import verdict_of
from reports.viewer import Packed, segments_of
from utils import DataError, write_json

pytestmark = pytest.mark.slow

CHANNEL = {"name": "more", "unit": "", "measures": "other", "rate_hz": 1.0}
NASTY = "<script>alert(1)</script> \"q\" 'a' & ../../etc/passwd\nzweite Zeile \u00e4\u00f6\u03b2\U0001f634 " + "x" * 300


def make_run(
    root, *, name="night", channels=("flow", "belt"), labelled=True, scored=False, simulated=False, text="fine"
):
    """Write a finished run folder of one recording: one apnea found, one cough missed, a false alarm, a fault."""
    run = RunFolder(root)
    run.plots.mkdir(parents=True)
    t = np.arange(1500) / 5
    values = np.stack([20 * np.sin(1.5 * t), np.cos(1.5 * t)], 1)
    values[700:720, 1] = np.nan
    score = 1 + 0.5 * np.sin(t)
    score[500:560], score[1000:1010], score[:50] = 6.0, 4.0, np.nan
    spans = ((100.0, 111.8, 6.0), (200.0, 201.8, 4.0))
    found = [FoundEvent(name, start, end, peak, start, channels[0]) for start, end, peak in spans]
    faults = [FoundEvent(name, 140.0, 144.0, np.nan, 140.0, channels[1])]
    missed = EventMeta.model_construct(start_s=250.0, end_s=252.0, kind=text)            # no config allows such a kind
    labels = [EventMeta(start_s=95.0, end_s=110.0, kind="central_apnea"), missed]
    labels = labels if labelled else []
    seen = ScoredRecording(name, t, score, score > 3, found, faults, labels, labelled)
    chance = np.random.default_rng(0).uniform(size=len(t))
    random = ScoredRecording(name, t, chance, chance > 0.999, [], faults, labels, labelled)
    with run_files(run) as files:
        for event, kind in zip(found, ("central_apnea", ""), strict=True):
            row = {"start_s": event.start_s, "end_s": event.end_s, "channel": event.channel, "recording": name}
            row |= {"kind": kind if kind and labelled else "other", "confidence": event.peak_score}
            judged = {"matched_label": kind * labelled, "is_false": int(not kind) if labelled else ""}
            files.events.append(row | judged | {"found_by": "alarm", "component": "amplitude_drop"})
        lost = {"recording": name, "kind": "signal_loss", "found_by": "signal_loss", "channel": faults[0].channel}
        files.events.append(lost | {"start_s": faults[0].start_s, "end_s": faults[0].end_s})
        for label, by in zip(labels, ("lstm", ""), strict=labelled):
            files.labels.append({"recording": name, **label.model_dump(), "found_by": by})
        about = {"name": name, "start_s": 0.0, "end_s": float(t[-1]), "steps": len(t), "is_labelled": labelled}
        signals = {"t": t, "values": values, "forecast": values * 0.9, "score": score, "threshold": 0 * t + 3}
        files.add_recording(about | {"lead_s": 3.0}, signals)
    facts = {
        "dataset": "tiny", "description": text, "simulated": simulated, "is_series": False, "rate_hz": 5.0,
        "delay_s": 0.8, "guard_s": 10.0,
        "channels": [{"name": c, "unit": "L/min", "measures": "airflow", "rate_hz": 25.0} for c in channels],
        "splits": {"train": {"recordings": 1, "steps": 3600, "hours": 0.2}},
        "dropped": [f"{text}: 1 to 2 s, 5 steps: guard"], "filled": [f"{text}: 3 samples"], "notes": [text],
        "sources": {text: "00ff"},
    }  # fmt: skip
    write_data(run, facts, files.recordings)
    detectors = {"LSTM": [seen], "amplitude baseline": [random], "random scores": [random]}
    events = EventConfig()
    metrics = {
        "dataset": "tiny", "simulated": simulated, "channels": list(channels), "seed": 0, "fault_kinds": [],
        "rate_hz": 5.0, "threshold": {"method": "quantile", "parameters": {"q": 0.99}, "value": 3.0}, "events": events,
        "detectors": {d: detector_metrics(r, [], 5.0, events, 10) for d, r in detectors.items()} if labelled else {},
        "faults": fault_measures([seen], [], 5.0),
    }  # fmt: skip
    if scored:
        found = {"recordings": 1, "labelled_recordings": int(labelled), "hours": 0.5, "events": 2, "faults": 1}
        metrics["found"] = found
    else:
        metrics["forecast"] = {"lstm": -1.5, "best_epoch": 1, "last_value": -1.0, "mean": 0.5}
        metrics["calibration"] = {"events": 1, "hours": 2.0, "events_per_hour": 0.5}
        rows = [(k, 1.0, 1.0 - k, 1e-3, 2.0) for k in range(2)]
        history = [dict(zip(HISTORY, row, strict=True)) for row in rows]
        write_history(run, history)
        for picture in ("training", "progress"):
            save(plot_history(history, 1), run.plots / f"{picture}.png")
    write_metrics(run.metrics, RunMetrics(**metrics))
    write_json(run.config, {"dataset": {"name": text}, "grid": {}})
    made = {"command": ["main.py", "--out", text], "seed": 0, "device": "cpu", "seconds": {"total": 3.0}}
    write_json(run.run, made | {"git_commit": None, "versions": {"python": "3.11"}, "finished": "2026-01-01 00:00:00"})
    return root


@pytest.fixture
def root(tmp_path):
    return make_run(tmp_path / "run")


# ---- what it shows --------------------------------------------------------------------------


def test_every_event_has_a_place_in_the_viewer_and_a_link_to_it(root):
    text, page = page_of(root)
    check_sound(text, page)
    findings = facts_of(root / "viewer" / "night.html")["findings"]
    assert [(one["key"], one["verdict"], one["kind"]) for one in findings] == [
        ("e1", "hit", "central_apnea"), ("f1", "fault", "signal_loss"), ("e2", "false", "other"),
        ("m1", "missed", "fine"),
    ]  # fmt: skip
    assert findings[0]["label"] == {"start": 95.0, "end": 110.0, "kind": "central_apnea"}
    assert {"viewer/night.html", "viewer/night.html#e2", "viewer/night.html#m1"} <= set(page.links)


def test_signals_in_a_viewer_are_those_of_the_run(root):
    write_report(root)
    path = root / "viewer" / "night.html"
    facts = facts_of(path)
    content = base64.b64decode(re.search('id="signals">"([^"]*)"', path.read_text(encoding="utf-8")).group(1))
    with np.load(root / "signals.npz") as wanted:
        for k, channel in enumerate(facts["channels"]):
            about, y = channel["values"], wanted["values_0"][:, k]
            codes = np.frombuffer(content, "<i2", len(y), about["at"]).astype(float)
            read = np.where(codes == -32768, np.nan, about["low"] + (codes + 32767) * about["step"])
            np.testing.assert_allclose(read, y, atol=np.nanmax(np.abs(y)) / 32000)
    assert facts["threshold"] == {"kind": "constant", "value": 3.0}
    assert facts["segments"] == [[0.0, 1500]]


def test_an_outlier_does_not_take_the_levels_of_a_signal():
    y = np.sin(np.arange(5000.0))
    assert Packed().add(y)["kind"] == "short"
    y[100] = 1e6
    packed = Packed()
    assert packed.add(y)["kind"] == "float"
    np.testing.assert_array_equal(np.frombuffer(packed.parts[0], "<f4"), y.astype(np.float32))
    assert Packed().add(np.full(3, np.nan)) == {"kind": "constant", "value": None}


def test_left_out_steps_begin_a_new_segment():
    t = np.r_[np.arange(10.0), 30 + np.arange(5.0)] / 5
    assert segments_of(t, 5.0) == [(0.0, 10), (6.0, 5)]


def test_a_recording_that_is_gone_takes_its_viewer_along(root):
    stale = root / "viewer" / "earlier.html"
    stale.parent.mkdir()
    stale.write_text("")
    write_report(root)
    assert [path.name for path in (root / "viewer").iterdir()] == ["night.html"]


def test_numbers_config_versions_and_data_are_there(root):
    _, page = page_of(root)
    for words in (
        "The LSTM found 1 of 1 apneas and 0 of 1 other labelled events",
        "amplitude baseline", "random scores", "free response", "read off the test recordings", "dataset.name",
        "python 3.11", "main.py --out fine", "not under version control", "Dropped: 1 spans", "1 × guard",
        "airflow", "no medical device", "1 event in 2.0 hours",
    ):  # fmt: skip
        assert words in page.words
    assert "Simulated" not in page.words
    assert "goes from 1.000 at epoch 0 to -1.500 at epoch 1" in page.images[0]["alt"]


def test_simulated_data_is_said_before_anything_else(tmp_path):
    _, page = page_of(make_run(tmp_path / "run", simulated=True))
    words = page.words[page.words.index("To the content") :]
    assert words.startswith("To the content Simulated data: no person was measured.")


def test_without_labels_nothing_is_called_true_or_false(tmp_path):
    root = make_run(tmp_path / "run", labelled=False, scored=True)
    text, page = page_of(root)
    check_sound(text, page)
    assert "The LSTM found 2 events in 0.5 hours of 1 recording, 4.0 an hour." in page.words
    assert "Nothing is labelled here" in page.words
    assert {one["verdict"] for one in facts_of(root / "viewer" / "night.html")["findings"]} == {"plain", "fault"}
    for word in ("found as labelled", "free response", "Training"):
        assert word not in page.words


def test_made_again_it_is_the_same_to_the_byte(root):
    first = write_report(root).read_bytes()
    assert write_report(root).read_bytes() == first
    assert not [p for p in root.rglob("*") if p.name.startswith(".")]


def test_text_from_outside_is_only_ever_text(tmp_path):
    root = make_run(tmp_path / "run", name=NASTY, channels=(NASTY, "belt"), text=NASTY)
    text, page = page_of(root)
    check_sound(text, page)
    assert " ".join(NASTY.split()) in page.words
    (viewer,) = (root / "viewer").iterdir()
    assert facts_of(viewer)["recording"] == NASTY
    assert "<script>alert" not in text + viewer.read_text(encoding="utf-8")


def test_pictures_of_odd_names_stay_inside_the_run_folder(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("../../etc/passwd", "a/b", "..\\x", "\u03b2" * 300, NASTY):
        for path in (run.overview(name), run.close_up(name, 3.5, "found")):
            assert path.resolve().is_relative_to(tmp_path / "plots") and len(path.name.encode()) < 240
    assert run.overview("\u03b2" * 300) != run.overview("\u03b2" * 301)
    assert run.close_up("night", 12.34, "missed") == tmp_path / "plots" / "events" / "night_00012.3_missed.png"


# ---- several runs ---------------------------------------------------------------------------


@pytest.fixture
def seeds(tmp_path):
    for name in ("seed 0", "seed#1"):
        write_report(make_run(tmp_path / name, simulated=True))
    write_json(tmp_path / "runs.json", {"seeds": 2, "folders": ["seed 0", "seed#1"]})
    return tmp_path


def test_a_folder_of_runs_has_one_table_and_a_link_to_each_page(seeds):
    text, page = page_of(seeds)
    check_sound(text, page)
    links = [link for link in page.links if not link.startswith("#")]
    assert links == ["seed%200/report.html", "seed%231/report.html"]
    assert "2 runs, 2 seeds each" in page.words and "Simulated data" in page.words
    assert "100 ± 0 %" in page.words and page.words.count("The LSTM found 1 of 1 apneas") == 2


# ---- the verdict ----------------------------------------------------------------------------


def detector(found, per_hour, precision, labelled=30):
    kinds = {kind: KindMeasures.model_construct(labelled=labelled, found=n) for kind, n in found.items()}
    counts = {"found_events": sum(found.values()), "labelled_events": labelled * len(found)}
    events = EventMeasures.model_construct(false_events_per_hour=per_hour, **counts)
    areas = AreaMeasures.model_construct(auc_pr=precision)
    return DetectorMetrics.model_construct(kinds=kinds, events=events, threshold_free=areas)


def run_metrics(detectors, fault_kinds=()):
    return RunMetrics.model_construct(detectors=detectors, fault_kinds=list(fault_kinds))


def test_the_verdict_counts_and_names_the_rule_and_what_is_behind():
    detectors = {
        "LSTM": detector(
            {"central_apnea": 30, "hypopnea": 24, "obstructive_apnea": 27, "tachypnea": 3, "lost": 30}, 1.66, 0.4
        ),
        "amplitude baseline": detector(
            {"central_apnea": 30, "hypopnea": 15, "obstructive_apnea": 30, "tachypnea": 0, "lost": 30}, 6.85, 0.45
        ),
        "random scores": detector(
            {"central_apnea": 1, "hypopnea": 1, "obstructive_apnea": 1, "tachypnea": 6, "lost": 30}, np.nan, 0.2
        ),
    }
    sentences = verdict_of(run_metrics(detectors, ["lost"]), is_series=False)
    assert [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences] == [
        "The LSTM found 95 % of 60 apneas, 80 % of 30 hypopneas and 10 % of 30 other labelled events at 1.7 false "
        "events an hour; the amplitude baseline found 100 %, 50 % and 0 % at 6.8 false events an hour.",
        "Found more often without training: obstructive apnea (27 of 30; amplitude baseline 30) and tachypnea "
        "(3 of 30; random scores 6).",
        "By average precision a baseline is ahead of the LSTM: amplitude baseline, 0.45 against 0.40.",
    ]


def test_few_events_are_told_as_counts():
    found = {"LSTM": 9, "plain rule": 8}
    detectors = {name: detector({"central_apnea": n}, 0.5, 0.5, labelled=10) for name, n in found.items()}
    (sentence,) = verdict_of(run_metrics(detectors), is_series=False)
    assert sentence.startswith("The LSTM found 9 of 10 apneas at 0.5 false events an hour; the plain rule found 8 of")


def test_no_event_of_an_unlabelled_series_is_called_false():
    sentence, *_ = verdict_of(run_metrics({name: detector({}, 0.5, np.nan) for name in ("LSTM", "plain rule")}), True)
    assert sentence.startswith("No window is labelled in the test rows; the LSTM found ")


# ---- what it refuses ------------------------------------------------------------------------


def refused(root, capsys):
    """Return the one line that refuses a folder; no page is left, and no torn file."""
    (root / "report.html").unlink(missing_ok=True) if root.is_dir() else None
    assert report_page.main([str(root)]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and captured.err.startswith("error: ") and not captured.out
    assert not (root / "report.html").exists() and not list(root.rglob("*.tmp"))
    return captured.err


@pytest.mark.parametrize(
    "name",
    ["data.json", "run.json", "config.json", "events.csv", "labels.csv", "signals.npz", "plots/training.png"],
)
def test_a_missing_and_a_garbled_file_are_refused_by_name(root, capsys, name):
    for content in (None, b"\x00nothing of use", b""):
        (root / name).unlink() if content is None else (root / name).write_bytes(content)
        assert name.rpartition("/")[2] in refused(root, capsys)


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        ("events.csv", "apnea,100.0", "apnea,soon", "events.csv: row 2: start_s is 'soon'; expected a number"),
        ("events.csv", "night,central", "day,central", "events.csv: row 2: recording 'day' is not in data.json"),
        ("labels.csv", "kind", "kinds", "labels.csv: no column 'kind'"),
        ("metrics.json", '"detectors"', '"detectives"', "metrics.json: detectors: missing"),
        ("metrics.json", '"false_events": 1', '"false_events": "one"', "events.false_events is 'one'; expected an int"),
        ("metrics.json", '"quantile"', "NaN", "metrics.json: NaN is not a JSON number"),
        ("data.json", '"channels": [', f'"channels": [{json.dumps(CHANNEL)}, ',
         "signals.npz: the arrays of 'night' have other shapes"),
        ("data.json", '"rate_hz": 5.0', '"rate_hz": "fast"', "do not fit together"),
        ("history.csv", "0,1,", "0,one,", "history.csv: row 2: train_loss is 'one'; expected a number"),
    ],
)
def test_an_edited_file_is_refused_by_name(root, capsys, name, before, after, expected):
    text = (root / name).read_text()
    assert before in text
    (root / name).write_text(text.replace(before, after))
    assert expected in refused(root, capsys)


def test_a_torn_archive_is_refused(root, capsys):
    content = (root / "signals.npz").read_bytes()
    (root / "signals.npz").write_bytes(content[: len(content) // 2])
    assert "signals.npz: not readable" in refused(root, capsys)
    with zipfile.ZipFile(root / "signals.npz", "w") as archive:
        archive.writestr("t_0.npy", b"none")
    assert "signals.npz" in refused(root, capsys)


def test_a_page_that_cannot_be_made_leaves_the_old_one(root):
    before = write_report(root).read_bytes()
    shutil.copy(root / "labels.csv", root / "events.csv")
    with pytest.raises(DataError, match="events.csv: no column"):
        write_report(root)
    assert (root / "report.html").read_bytes() == before


def test_null_numbers_are_shown_as_unknown(root):
    metrics = json.loads((root / "metrics.json").read_text())
    for one in metrics["detectors"].values():
        one["events"]["false_events_per_hour"] = one["events"]["delay_median_s"] = None
        one["threshold_free"]["auc_pr"] = None
    (root / "metrics.json").write_text(json.dumps(metrics))
    _, page = page_of(root)
    assert "at an unknown number of false events" in page.words and "None" not in page.words
