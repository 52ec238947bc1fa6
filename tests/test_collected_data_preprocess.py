import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from collected_data_preprocess import main
from config import DATASET_CONFIG, load_dataset_config
from data_loader import check_splits_apart
from recordings import windowing
from utils import ROOT, sha256_of

SPLITS = ("train", "val", "test")
ENTRY = {
    "description": "made by a test",
    "raw_dir": "raw",
    "raw_hint": "put night_a.csv and its friends there",
    "channels": {
        "flow": {"unit": "L/min", "rate_hz": 25.0, "low_pass_hz": 1.5},
        "spo2": {"unit": "%", "rate_hz": 1.0, "sentinels": [127]},
    },
    "rate_hz": 5.0,
    "window_s": 10.0,
    "guard_s": 10.0,
    "normal_margin_s": 5.0,
    "split": {"train": ["night_a"], "val": ["night_b"], "test": ["night_c"]},
    "labels": {"Apnea": "apnea"},
}


class Project:
    """A folder with a dataset_config.json, raw recordings and an output folder."""

    def __init__(self, folder: Path, breathing, capsys) -> None:
        self.folder, self.breathing, self.capsys = folder, breathing, capsys
        self.entry = copy.deepcopy(ENTRY)
        self.raw, self.made = folder / "raw", folder / "out" / "tiny"
        self.raw.mkdir()
        for seed, name in enumerate(("night_a", "night_b", "night_c")):
            self.record(name, seed=seed)

    def record(self, name: str, seconds: float = 120.0, seed: int = 0, start_s: float = 0.0, **columns) -> Path:
        k = np.arange(round(seconds * 25))
        t = start_s + k / 25
        spo2 = np.where(k % 25 == 0, 95.0 + k // 25 % 4, np.nan)
        values = {"t_s": t, "flow": self.breathing(k / 25, seed).round(3), "spo2": spo2} | columns
        pd.DataFrame({c: v for c, v in values.items() if v is not None}).to_csv(self.raw / f"{name}.csv", index=False)
        return self.raw / f"{name}.csv"

    def label(self, name: str, *rows: str) -> None:
        (self.raw / f"{name}.events.csv").write_text("\n".join(["start_s,end_s,label", *rows]) + "\n")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the script as a user would; return exit code, stdout, stderr."""
        config = self.folder / "dataset_config.json"
        config.write_text(json.dumps({"tiny": self.entry}))
        self.capsys.readouterr()
        code = main(["--dataset-config", str(config), "--dataset", "tiny", "--out", str(self.made.parent), *arguments])
        return code, *self.capsys.readouterr()

    def fails(self, *arguments: str) -> str:
        """Run it, expecting one line on the user's mistake and no files; return the line."""
        code, out, err = self.run(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1 and err.startswith("error: ")
        assert not self.made.exists() or not list(self.made.iterdir())
        return err.removeprefix("error: ").strip()

    def meta(self) -> windowing.Meta:
        return windowing.read_meta(self.made)

    def segments(self, split: str) -> list[windowing.Segment]:
        return windowing.read_windows(self.made / f"{split}.csv", self.meta(), list(self.entry["channels"]))

    def bytes_of(self, *splits: str) -> list[bytes]:
        return [(self.made / f"{split}.csv").read_bytes() for split in splits]


@pytest.fixture
def project(tmp_path, breathing, capsys):
    return Project(tmp_path, breathing, capsys)


# ---------------------------------------------------------------- what is made

def test_writes_three_csvs_and_prints_their_folder(project):
    code, out, _ = project.run()
    assert code == 0 and out.strip() == str(project.made)
    assert sorted(p.name for p in project.made.iterdir()) == ["meta.json", "test.csv", "train.csv", "val.csv"]
    header = (project.made / "train.csv").read_text().splitlines()[0]
    assert header == "recording,window,t_s,flow,spo2,valid_flow,valid_spo2,label"


def test_meta_describes_the_data_and_how_it_was_made(project):
    project.label("night_c", "60,70,Apnea")
    project.run()
    meta = project.meta()
    assert (meta.dataset, meta.rate_hz, meta.window_s, meta.guard_s, meta.delay_s) == ("tiny", 5.0, 10.0, 10.0, 0.8)
    assert meta.channels == {"flow": "L/min", "spo2": "%"} and not meta.simulated
    files = ("night_a.csv", "night_b.csv", "night_c.csv", "night_c.events.csv")
    assert meta.sources == {name: sha256_of(project.raw / name) for name in files}
    event = {"start_s": 60.0, "end_s": 70.0, "kind": "apnea"}
    assert [e.model_dump() for e in meta.events["night_c"]] == [event] and meta.events["night_a"] == []
    for split in SPLITS:
        assert meta.rows[split] == len(pd.read_csv(project.made / f"{split}.csv"))
        assert meta.rows[split] == sum(span.steps for span in meta.splits[split])
        assert {span.recording for span in meta.splits[split]} == {project.entry["split"][split][0]}
    assert meta.config["split"]["train"] == ["night_a"]


def test_values_are_the_signal_delayed_and_the_labels_are_not(project):
    k = np.arange(3000)
    project.record("night_c", flow=10 * np.sin(2 * np.pi * k / 100))
    project.label("night_c", "60,70,Apnea")
    project.run()
    (segment,) = project.segments("test")
    expected = 10 * np.sin(2 * np.pi * (segment.t - 0.8) / 4)
    flow = segment.values[:, 0]
    assert np.nanmax(np.abs(flow - expected)) < 0.2 and np.isfinite(flow).sum() > 580
    np.testing.assert_array_equal(segment.label, (segment.t >= 60) & (segment.t <= 70))


def test_scaler_is_that_of_the_training_rows(project):
    project.run()
    rows = pd.read_csv(project.made / "train.csv")
    for index, channel in enumerate(("flow", "spo2")):
        values = rows[channel].dropna()
        clipped = values.clip(*values.quantile([0.01, 0.99]))
        assert project.meta().scaler.center[index] == pytest.approx(clipped.mean(), rel=1e-5)
        assert project.meta().scaler.scale[index] == pytest.approx(clipped.std(ddof=0), rel=1e-5)


def test_a_table_as_excel_writes_it_in_german_makes_the_same_windows(project):
    project.label("night_c", "60.5,70,Apnea")
    project.run()
    before, events = project.bytes_of(*SPLITS), project.meta().events
    start = pd.Timestamp("2024-12-31 23:59:00")                      # midnight is within
    for name in ("night_a", "night_b", "night_c"):
        rows = pd.read_csv(project.raw / f"{name}.csv")
        stamps = (start + pd.to_timedelta(rows["t_s"], unit="s")).dt.strftime("%d.%m.%Y %H:%M:%S,%f").str[:-4]
        table = pd.DataFrame({"Zeit": stamps, "Fluss (l/min)": rows["flow"], "SpO₂": rows["spo2"], "Notiz": "-"})
        table.to_csv(project.raw / f"{name}.csv", sep=";", decimal=",", index=False, encoding="utf-8-sig")
    (project.raw / "night_c.events.csv").write_text("start_s;end_s;label\r\n60,5;70,0;Apnea\r\n")
    project.entry["time_column"] = "Zeit"
    project.entry["channels"]["flow"]["source"] = "Fluss (l/min)"
    project.entry["channels"]["spo2"]["source"] = "SpO₂"
    assert project.run()[0] == 0
    assert project.bytes_of(*SPLITS) == before and project.meta().events == events


@pytest.mark.parametrize("factor", [1e-7, 1.0, 1e5])
def test_the_unit_of_a_channel_does_not_decide_what_is_lost(project, factor):
    flow = project.breathing(np.arange(3000) / 25)
    project.record("night_a", flow=flow)
    project.run()
    before = project.segments("train")[0].values[:, 0]
    project.record("night_a", flow=flow * factor)
    project.run()
    after = project.segments("train")[0].values[:, 0]
    np.testing.assert_allclose(after, before * factor, rtol=2e-5)


def test_fractions_of_one_recording_keep_their_guard_and_it_is_listed(project):
    project.record("night_a", seconds=200.0)
    project.entry["split"] = {"train": ["night_a"], "val_fraction": 0.3, "test_fraction": 0.2}
    assert project.run()[0] == 0
    train, val, test = (project.segments(split) for split in SPLITS)
    assert val[0].t[0] - train[-1].t[-1] >= 10 and test[0].t[0] - val[-1].t[-1] >= 10
    assert val[0].t[0] == pytest.approx(100, abs=0.3) and test[0].t[0] == pytest.approx(160, abs=0.3)
    check_splits_apart({"train": train, "val": val, "test": test}, project.meta())
    meta = project.meta()
    guard = [line for line in meta.dropped if "guard" in line]
    assert len(guard) == 2
    listed = sum(int(line.split(", ")[1].split()[0]) for line in meta.dropped)
    assert listed + sum(meta.rows.values()) == 1000                  # every step is written or listed


@pytest.mark.parametrize("where", ["file", "config"])
def test_training_and_calibration_drop_what_is_near_an_event_and_say_so(project, where):
    for name in ("night_a", "night_b", "night_c"):
        if where == "file":
            project.label(name, "60,65,Apnea")
        else:
            project.entry.setdefault("events", {})[name] = [{"start_s": 60, "end_s": 65, "label": "Apnea"}]
    project.run()
    meta = project.meta()
    for split, name in (("train", "night_a"), ("val", "night_b")):
        t = np.concatenate([segment.t for segment in project.segments(split)])
        assert not ((t >= 55) & (t <= 70)).any() and ((t > 54.5) & (t < 70.5)).sum() == 4
        assert f"{name}: 55 to 70 s, 76 steps: {split}: in or near a known anomaly" in meta.dropped
    (test,) = project.segments("test")
    assert test.label.sum() == 26 and not any("night_c: 55" in line for line in meta.dropped)


def test_gaps_sentinels_and_flatlines_are_masked_and_listed(project):
    k = np.arange(3000)
    flow = project.breathing(k / 25)
    flow[1000:1005] = np.nan                                         # 0.2 s: held
    flow[1500:1750] = np.nan                                         # 60 to 70 s: missing
    flow[2250:2500] = 1.5                                            # 90 to 100 s: flatline after 2 s
    spo2 = np.where(k % 25 == 0, 95.0 + k // 25 % 4, np.nan)
    spo2[500:1000:25] = 127                                          # 20 to 40 s
    project.entry["channels"]["flow"]["flatline_s"] = 2.0
    project.record("night_c", flow=flow, spo2=spo2)
    project.run()
    (segment,) = project.segments("test")
    t, missing = segment.t, np.isnan(segment.values)
    assert missing[(t > 61) & (t < 70), 0].all() and missing[(t > 93) & (t < 100), 0].all()
    assert missing[(t > 22.5) & (t < 40), 1].all() and not missing[(t > 45) & (t < 60)].any()
    assert segment.values[np.isfinite(segment.values[:, 1]), 1].max() <= 98
    filled = [line for line in project.meta().filled if line.startswith("night_c: flow")]
    assert "200 flatline samples set to missing" in filled[1] and "samples in short gaps filled" in filled[0]


def test_times_may_begin_anywhere_and_events_follow_them(project):
    project.record("night_c", start_s=5000.0)
    project.label("night_c", "5060,5070,Apnea")
    assert project.run()[0] == 0
    (segment,) = project.segments("test")
    assert segment.t[0] == pytest.approx(5000.8) and segment.label.sum() == 51
    project.label("night_c", "60,70,Apnea")
    assert "lies outside the recording, 5000 to 5120 s" in project.run()[2]


# ---------------------------------------------------------------- leakage

def test_the_test_recording_changes_neither_training_nor_calibration(project):
    project.run()
    before, scaler = project.bytes_of("train", "val"), project.meta().scaler
    project.record("night_c", seed=99, flow=1000 * project.breathing(np.arange(3000) / 25, 9))
    project.label("night_c", "60,70,Apnea")
    project.run()
    assert project.bytes_of("train", "val") == before and project.meta().scaler == scaler


def test_the_calibration_recording_changes_nothing_in_training(project):
    project.run()
    before, scaler, test = project.bytes_of("train"), project.meta().scaler, project.bytes_of("test")
    project.record("night_b", flow=1000 * project.breathing(np.arange(3000) / 25, 9))
    project.run()
    assert project.bytes_of("train") == before and project.meta().scaler == scaler
    assert project.bytes_of("test") == test


def test_the_end_of_a_recording_changes_nothing_in_its_training_part(project):
    project.entry["split"] = {"train": ["night_a"], "val_fraction": 0.3, "test_fraction": 0.2}
    project.record("night_a", seconds=200.0)
    project.run()
    before, scaler = project.bytes_of("train"), project.meta().scaler
    flow = project.breathing(np.arange(5000) / 25, 0).round(3)
    flow[2300:] = -500                                               # from 92 s; training ends at 90 s
    project.record("night_a", seconds=200.0, flow=flow)
    project.run()
    assert project.bytes_of("train") == before and project.meta().scaler == scaler


# ---------------------------------------------------------------- running again

def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_second_run_touches_nothing_and_force_makes_the_same_again(project):
    project.run()
    first, content = stamps(project.made), {p.name: p.read_bytes() for p in project.made.iterdir()}
    assert project.run()[0] == 0 and stamps(project.made) == first
    assert project.run("--force")[0] == 0
    assert stamps(project.made) != first and {p.name: p.read_bytes() for p in project.made.iterdir()} == content


@pytest.mark.parametrize("change", ["recording", "events", "config", "row", "meta", "csv"])
def test_a_changed_dataset_is_made_again(project, change):
    project.label("night_a", "60,65,Apnea")
    project.run()
    good, before = project.bytes_of(*SPLITS), project.meta().fingerprint
    if change == "recording":
        project.record("night_a", seed=5)
    elif change == "events":
        project.label("night_a", "80,85,Apnea")
    elif change == "config":
        project.entry["guard_s"] = 11.0
    elif change == "row":
        path = project.made / "val.csv"
        path.write_bytes(path.read_bytes()[:5000])
    else:
        (project.made / {"meta": "meta.json", "csv": "test.csv"}[change]).unlink()
    assert project.run()[0] == 0
    if change in ("recording", "events"):
        assert project.bytes_of("train") != good[:1]
    else:
        assert project.bytes_of(*SPLITS) == good
    assert (project.meta().fingerprint != before) == (change in ("recording", "events", "config"))


def test_a_mistake_leaves_what_was_made_before(project):
    project.run()
    before = stamps(project.made)
    project.record("night_b", flow=np.full(3000, 3.0))
    code, _, err = project.run()
    assert code == 2 and "constant" in err and stamps(project.made) == before


# ---------------------------------------------------------------- the user's mistakes

@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("split", [], "split is []; expected an object"),
        ("delimiter", ":", "delimiter is ':'; expected ',', ';', '\\t', '|' or ' '"),
        ("annotators", ["../night"], "annotators.0 is '../night'; expected a plain name: no path"),
        ("annotation_s", -1, "annotation_s is -1; expected greater than or equal to 0"),
        ("normal_margin_s", 1e9, None),
    ],
)
def test_a_bad_entry_is_one_line(project, key, value, expected):
    project.entry[key] = value
    if expected is None:
        project.entry["split"] = {"train": ["night_a"], "val_fraction": 0.3, "test_fraction": 0.3}
        project.label("night_a", "60,65,Apnea")
        assert project.fails().startswith("tiny: no data left for train; check split, gaps, guard")
    else:
        assert project.fails().startswith(f"dataset_config.json: tiny: {expected}")


# ---------------------------------------------------------------- looking, listing, helping

def test_inspect_prints_and_changes_nothing(project, capsys):
    project.label("night_c", "60,70,Apnea")
    before = sorted(project.folder.rglob("*"))
    assert main(["--inspect", str(project.raw / "night_a.csv"), str(project.raw / "night_c.csv")]) == 0
    out = capsys.readouterr().out
    assert "night_a.csv: 3000 rows" in out and "flow: 25 Hz" in out and "60 to 70 s: Apnea" in out
    assert sorted(project.folder.rglob("*")) == before
    assert main(["--inspect", str(project.raw / "none.csv")]) == 2
    assert capsys.readouterr().err.endswith("none.csv: no such file\n")
    files = [project.raw / name for name in ("none.csv", "night_c.events.csv", "night_a.csv")]
    assert main(["--inspect", *map(str, files)]) == 2            # readable files are described all the same
    out, err = capsys.readouterr()
    assert "night_a.csv: 3000 rows" in out and "night_c" not in out and err.endswith("none.csv: no such file\n")


def test_list_names_every_entry(capsys):
    assert main(["--list"]) == 0
    entries = list(json.loads(DATASET_CONFIG.read_text()))
    assert capsys.readouterr().out.split() == [name for name in entries if name != "NAB"]


# ---------------------------------------------------------------- real recordings

@pytest.mark.parametrize("name", ["nk_rest_5min", "nk_rest_8min", "cpap_airsense"])
def test_real_recordings_preprocess(name, tmp_path, capsys):
    dataset = load_dataset_config(DATASET_CONFIG, name)
    if not (ROOT / dataset.raw_dir).is_dir():
        pytest.skip(f"{dataset.raw_dir} is not here; {dataset.raw_hint}")
    assert main(["--dataset", name, "--out", str(tmp_path)]) == 0
    meta = windowing.read_meta(tmp_path / name)
    splits = {
        split: windowing.read_windows(tmp_path / name / f"{split}.csv", meta, list(meta.channels)) for split in SPLITS
    }
    check_splits_apart(splits, meta)
    assert min(meta.rows.values()) > 250
    assert not any(segment.label.any() for split in ("train", "val") for segment in splits[split])
    labelled = sum(segment.label.sum() for segment in splits["test"])
    seconds = sum(e.end_s - e.start_s for events in meta.events.values() for e in events)
    assert labelled == pytest.approx(seconds * meta.rate_hz, abs=6)
