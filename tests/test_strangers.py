"""Crafted checkpoints, states and run folders, and hostile names: refused in one line, or carried as plain text."""

import copy
import io
import math
import zipfile

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from PIL import Image

import collected_data_preprocess
import pure_lstm_anomaly_detection_main as main_script
from config import DatasetConfig, check_name, load_dataset_config, validate
from detection.checkpoint import read_tensors, write_tensors
from grid.results import cells
from grid.search import Journal
from live import stream
from live.rows import InputWarnings, Rows
from recordings.nab_series import read_series
from recordings.resampling import _taps, grid_of
from recordings.signal_files import read_signals
from recordings.windowing import read_windows, write_windows
from reports import page, run_view
from utils import DataError, plain_text, run_cli

pytestmark = pytest.mark.robustness


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def state(checkpoint):
    return read_tensors(checkpoint)


# ---- checkpoints and states -----------------------------------------------------------------


STREAM = "stream/live"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("place", -1), ("place", "0"), ("checkpoint", torch.zeros(0)), ("bytes", 1.5), ("tail", "0x"), ("tail", 7),
        ("stream/taken", "many"), ("stream/first", 7),
        ("stream/rows/head", 3), ("stream/rows/times/kind", "no"), ("stream/rows/times/stamps/formats", 5),
        ("stream/clock/last_s", "late"), ("stream/clock/earlier", [[1.0]]), ("stream/clock/unconfirmed", [1.0, "x"]),
        (f"{STREAM}/grid/next", "abc"), (f"{STREAM}/grid/next", 10**400), (f"{STREAM}/grid/repeats", []),
        (f"{STREAM}/grid/channels/0/pending", [[1, "x"]]), (f"{STREAM}/grid/channels/0/window", torch.zeros(2)),
        (f"{STREAM}/events/votes", [0, 0, "0"]), (f"{STREAM}/faults/begun", [0, 0, 0]), (f"{STREAM}/last_step", None),
        (f"{STREAM}/stream/comparisons/medians/oldest", 10**6), (f"{STREAM}/stream/comparisons/seen", [1]),
        (f"{STREAM}/stream/forecasts", {"0": torch.zeros(1)}), (f"{STREAM}/stream/forecasts/seen", -1),
        (f"{STREAM}/stream/forecasts/hidden/0/0/0", math.nan), ("stream/clock", None),
        (f"{STREAM}/stream/threshold/fitted", {}),
    ],
    ids=str,
)  # fmt: skip
def test_a_tampered_state_is_refused(tmp_path, checkpoint, path, value):
    began = stream.new_stream(checkpoint, "cpu", InputWarnings())
    list(began.take(tiny.draw_recording(6, 3).to_csv(index=False).splitlines()))
    about = {"format": stream.FORMAT, "checkpoint": "sum", "place": 0, "bytes": 10, "tail": "00" * 10}
    stream.save_state(tmp_path / "live.state", about | {"stream": began.state_dict()})
    tree = read_tensors(tmp_path / "live.state")
    tiny.put(tree, path, value)
    write_tensors(tmp_path / "live.state", tree)
    with pytest.raises(DataError, match=r"^live\.state: ") as error:
        before = stream.load_state(tmp_path / "live.state", "sum")
        stream.restore(
            stream.new_stream(checkpoint, "cpu", InputWarnings()), before, tmp_path / "live.state"
        )
    assert "\n" not in str(error.value)


# ---- names ----------------------------------------------------------------------------------

REFUSED = (
    "", " ", "a ", "../x", "/etc/passwd", "a\\b", ".", "..", ".x", "<script>alert(1)</script>", 'a"b',
    "=cmd|' /C calc'!A0", "+1", "-1", "@x", "\uff1dcmd()", "\uff0bx", "a\nb", "a\tb", "a\rb", "a\0b",
    "\x1b[2J", "a\u202eb", "a" * 101, "CON", "nul.csv", "com1", "\ud800",
)  # fmt: skip
CARRIED = (
    "night 1",
    "a,b",
    "a'b",
    "e\u0301\U0001f634",
    "100 %",
    "{x}",
    "%s",
    "$(x)",
    "$frac$ $",
    "a=b",
    "CONTROL",
    "\u05d0\u05d1",
)


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_name_that_is_more_than_text_is_refused(name):
    with pytest.raises(DataError, match="^recording .*expected") as error:
        check_name(name, "recording")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("name", REFUSED[1:], ids=ascii)
def test_every_name_of_a_dataset_is_checked(tmp_path, name):
    for path in ("split/train/0", "labels/apnea", f"channels/{name or 'x'}" if "/" not in name else "split/test/0"):
        content = copy.deepcopy(tiny.DATA) | {"labels": {"apnea": "apnea"}}
        tiny.put(content, path, content["channels"]["flow"] if path.startswith("channels") else name)
        with pytest.raises(DataError, match="^x: "):
            validate(DatasetConfig, content, "x")


@pytest.mark.parametrize("name", CARRIED)
def test_other_names_go_through_scoring_into_files_that_read_back(tmp_path, state, name):
    """As a recording, a channel, its unit and a kind: tables read back, and the page has them as text alone."""
    from pages import Page, check_sound

    raw = tiny.draw_recording(60, 4, trouble=True)
    state["channels"][1], state["units"][1] = name, "$\\frac$ |<b>%"
    data = state["data"]
    data["channels"] = {name if c == "belt" else c: facts for c, facts in data["channels"].items()}
    data["channels"][name]["unit"] = state["units"][1]
    data["labels"] = {"apnea": name}
    write_tensors(tmp_path / "model.safetensors", state)
    file = tmp_path / f"{name}.csv"
    raw.rename(columns={"belt": name}).to_csv(file, index=False)
    (tmp_path / f"{name}.events.csv").write_text("start_s,end_s,label\n40,55,apnea\n")
    out = tmp_path / "out"
    model = ["--checkpoint", str(tmp_path / "model.safetensors")]
    assert main_script.main([*model, "--score", str(file), "--out", str(out)]) == 0
    scores = pd.read_csv(out / "scores.csv", dtype={"recording": str})
    assert set(scores["recording"]) == {name} and f"residual_{name}" in scores
    assert pd.read_csv(out / "labels.csv")["kind"].tolist() == [name]
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    check_sound(text, page)
    assert name in page.words
    folders = (out, out / "viewer", out / "exports", out / "plots", out / "plots" / "events")
    assert all(path.parent in folders for path in out.rglob("*.*"))


def test_a_recording_whose_file_has_a_hostile_name_is_not_scored(tmp_path, checkpoint, capsys):
    for name in ("=cmd|' calc'!A0", "\x1b[2J", "-x", "a\nb", "+1"):
        tiny.draw_recording(30, 1).to_csv(tmp_path / f"{name}.csv", index=False)
        arguments = ["--checkpoint", str(checkpoint), f"--score={tmp_path / name}.csv", "--out", str(tmp_path / "out")]
        assert main_script.main(arguments) == 2
        error = capsys.readouterr().err
        assert "expected" in error and "\x1b" not in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dataset_cannot_be_written_elsewhere(tmp_path):
    (tmp_path / "d.json").write_text('{"../../x": {}}')
    with pytest.raises(DataError, match="plain name"):
        load_dataset_config(tmp_path / "d.json", "../../x")


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys):
    assert plain_text("a\x1b[2J\u202e\ud800\tb\n\u00e9") == "a\\x1b[2J\\u202e\\ud800\tb\n\u00e9"

    def fail():
        raise DataError("x: \x1b]0;title\x07 in\nit")

    assert run_cli(fail) == 2
    assert capsys.readouterr().err == "error: x: \\x1b]0;title\\x07 in it\n"
    raw = tiny.draw_recording(20, 1).rename(columns={"belt": "be\x1b[2Jlt"})
    raw.to_csv(tmp_path / "a.csv", index=False)
    assert collected_data_preprocess.main(["--inspect", str(tmp_path / "a.csv")]) == 0
    assert "be\\x1b[2Jlt" in capsys.readouterr().out
    InputWarnings().warn("kind", "line 3: time '\x1b[2J'")
    assert "\x1b" not in capsys.readouterr().err


def test_memory_that_is_not_there_is_one_line(capsys):
    assert run_cli(lambda: len(np.empty(10**15))) == 2
    assert run_cli(lambda: len(torch.empty(10**15))) == 2
    assert (
        capsys.readouterr().err == "error: not enough memory for this; use shorter recordings or a smaller model\n" * 2
    )
    with pytest.raises(RuntimeError):
        run_cli(lambda: torch.zeros(2) @ torch.zeros(3))


def test_the_time_of_a_series_is_no_formula():
    rows = Rows("timestamp", ["value"], InputWarnings(), series=True)
    assert rows.take("timestamp,value") == []
    for text, written in (
        ("2014-04-01 00:00:00", "2014-04-01 00:00:00"),
        ("=cmd()", ""),
        ("<b>", ""),
        ("12.5", "12.5"),
    ):
        assert rows.take(f"{text},1.0") == [(0.0, [1.0])]
        assert rows.timestamp(0.0) == written


def test_a_text_in_the_table_of_a_grid_is_no_formula():
    assert cells({"a": "=1+1", "b": -1.5, "c": ["-x"]}) == {"a": "'=1+1", "b": -1.5, "c": '["-x"]'}


# ---- sizes and other files ------------------------------------------------------------------


def test_a_filter_and_a_grid_have_a_largest_size():
    with pytest.raises(DataError, match="taps"):
        _taps(99999.7, 999, 1.0, 60.0)
    with pytest.raises(DataError, match="steps"):
        grid_of(np.array([0.0, 1e12]), 100.0)


def test_timestamps_of_several_zones_and_formulas_are_refused(tmp_path):
    for times, told in (
        (["2014-04-01 00:00:00+02:00", "2014-04-01 00:05:00"], "time zones"),
        (["2014-04-01 00:00:00", "=cmd()"], "row 3"),
    ):
        pd.DataFrame({"timestamp": times, "value": [1.0, 2.0]}).to_csv(tmp_path / "a.csv", index=False)
        with pytest.raises(DataError, match=told):
            read_series(tmp_path / "a.csv", "a")


@pytest.mark.parametrize(
    "record",
    [{"key": 1}, {"status": "odd"}, {"until": "x"}, {"val_loss": []}, {"val_loss": "low"}, {"error": 3}, {"key": None}],
    ids=str,
)
def test_a_record_of_another_kind_is_refused(tmp_path, record):
    journal = Journal(tmp_path / "journal.jsonl")
    for one in ({}, record, {}):
        journal.add({"key": "a", "status": "finished", "until": None, "val_loss": 1.0} | one)
    with pytest.raises(DataError, match="line 2 is no record"):
        Journal(tmp_path / "journal.jsonl")


def test_a_count_beyond_64_bits_in_a_windowed_csv_is_refused(tmp_path, make_meta, make_segment):
    meta = make_meta(rows={"train": 3, "val": 0, "test": 0})
    write_windows(tmp_path / "train.csv", [make_segment(steps=3)], ["a", "b"], 10)
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace(",1,1,0", ",1,1,99999999999999999999", 1))
    with pytest.raises(DataError, match=r"^train\.csv: "):
        read_windows(tmp_path / "train.csv", meta, ["a", "b"])


def test_an_annotation_of_an_unknown_code_is_a_question_mark(tmp_path):
    wfdb = pytest.importorskip("wfdb")
    wfdb.wrsamp("a", fs=25, units=["L"], sig_name=["flow"], p_signal=np.sin(np.arange(100.0))[:, None], fmt=["16"],
                write_dir=str(tmp_path))  # fmt: skip
    (tmp_path / "a.atr").write_bytes((15 << 10 | 10).to_bytes(2, "little") + bytes(2))      # code 15 is none of wfdb's
    assert [note.text for note in read_signals(tmp_path / "a.hea").annotations] == ["?"]


@pytest.mark.parametrize("kind", ["compressed", "header", "text"])
def test_signals_that_promise_too_much_are_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(run_view, "MOST_SIGNALS", 10**6)
    content = io.BytesIO()
    np.save(content, np.zeros(10**6 if kind == "compressed" else 10) if kind != "text" else np.array(["x"] * 10))
    part = content.getvalue()
    if kind == "header":
        part = part.replace(b"(10,), }" + b" " * 9, b"(10000000000,), }", 1)
        assert b"(10000000000,)" in part
    with zipfile.ZipFile(tmp_path / "signals.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t_0.npy", part)
    with pytest.raises(DataError, match="unpacked" if kind == "compressed" else "promises"):
        run_view.read_signals(tmp_path / "signals.npz", 0)


def test_a_picture_of_too_many_pixels_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_PIXELS", 100)
    Image.new("1", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a.png: not a readable PNG"):
        page._picture(tmp_path / "a.png", "a")
