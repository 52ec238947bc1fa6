"""Recordings scored each by itself, on a Dask cluster or one after the other: `--score ... --jobs N`."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
from pages import check_sound, page_of

import pure_lstm_anomaly_detection_main as script
from reports import cohort
from reports.run_folder import night_folder

pytestmark = pytest.mark.usefixtures("blank_pictures")
EVENTS = "start_s,end_s,label\n40,55,central_apnea\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Three nights, two of them labelled, and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("nights")
    for seed, name in enumerate(("a", "b", "c")):
        tiny.draw_recording(120, seed, trouble=True).to_csv(folder / f"{name}.csv", index=False)
    for name in ("a", "b"):
        (folder / f"{name}.events.csv").write_text(EVENTS)
    (folder / "torn.csv").write_text("t_s,flow,belt,pulse\n0,1,1,1\n0.2,1,1,1\n0.1,1,1,1\n")
    return folder


def score(model, nights, out, *more):
    return script.main(["--checkpoint", str(model), "--score", str(nights), "--out", str(out), *more])


@pytest.fixture(scope="module")
def scored(model, nights, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "out"
    assert score(model, nights, out, "--jobs", "1") == 2                     # torn.csv
    return out


def tables(root):
    return {name: pd.read_csv(root / f"{name}.csv", keep_default_na=False) for name in ("nights", "events", "labels")}


def test_each_night_is_scored_as_all_together(model, nights, scored, tmp_path, capsys):
    assert score(model, nights, tmp_path / "together") == 2
    together, apart = tables(tmp_path / "together"), tables(scored)
    for name, frame in together.items():
        assert len(frame) >= 2
        pd.testing.assert_frame_equal(frame, apart[name])
    scores = pd.read_csv(tmp_path / "together" / "scores.csv")
    for name in "abc":
        one = pd.read_csv(night_folder(scored, name) / "scores.csv")
        both = scores[scores["recording"] == name].reset_index(drop=True)
        np.testing.assert_allclose(one["score"], both["score"], atol=1e-5)


def test_what_failed_is_named_and_the_page_leads_to_each_night(scored):
    failed = pd.read_csv(scored / "failed.csv")
    assert list(failed["recording"]) == ["torn"] and "goes backwards" in failed["reason"][0]
    text, page = page_of(scored)
    check_sound(text, page)
    links = [link for link in page.links if not link.startswith("#")]
    assert set(links) == {f"nights/{name}/report.html" for name in "abc"}
    assert all((scored / link).is_file() for link in links)
    assert "3 recordings" in page.words and "goes backwards" in page.words and "agreement over nights" in page.words


def test_the_same_command_again_does_only_what_is_missing(model, nights, scored, tmp_path, monkeypatch, capsys):
    out, files = shutil.copytree(scored, tmp_path / "out"), shutil.copytree(nights, tmp_path / "nights")
    shutil.rmtree(night_folder(out, "b"))
    (night_folder(out, "c") / "report.html").unlink()                        # as a kill leaves it
    (night_folder(out, "c") / ".scoring").touch()
    shutil.copy(files / "c.csv", files / "d.csv")                            # the cohort has grown
    (files / "torn.csv").unlink()
    done, whole = [], cohort.score_files
    monkeypatch.setattr(cohort, "score_files", lambda *a, **more: done.append(a[1][0].stem) or whole(*a, **more))
    assert score(model, files, out, "--jobs", "1") == 0
    assert done == ["b", "c", "d"] and not (out / "failed.csv").exists()
    pd.testing.assert_frame_equal(tables(out)["nights"][:3], tables(scored)["nights"])
    assert list(tables(out)["nights"]["recording"]) == ["a", "b", "c", "d"]


def test_other_options_are_refused_in_the_same_folder(model, nights, scored, capsys):
    assert score(model, nights, scored, "--jobs", "1", "--map-label", "x=cough") == 2
    assert "other options; name another --out" in capsys.readouterr().err


def test_ctrl_c_says_how_to_resume_and_keeps_what_is_done(model, nights, tmp_path, monkeypatch, capsys):
    whole = cohort.score_files

    def interrupted(checkpoint, files, *arguments, **more):
        if files[0].stem == "b":
            raise KeyboardInterrupt
        return whole(checkpoint, files, *arguments, **more)

    monkeypatch.setattr(cohort, "score_files", interrupted)
    assert score(model, nights, tmp_path / "out", "--jobs", "1") == 130
    assert f"resume with the same command and --out {tmp_path / 'out'}" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "out" / "nights.csv")["recording"]) == ["a"]


@pytest.mark.slow
def test_workers_and_one_after_the_other_give_the_same(model, nights, scored, tmp_path, capsys, cluster):
    assert score(model, nights, tmp_path / "out", "--scheduler", cluster.scheduler.address) == 2
    for name, frame in tables(tmp_path / "out").items():
        pd.testing.assert_frame_equal(frame, tables(scored)[name])


@pytest.mark.parametrize("options", [("--jobs", "-1"), ("--jobs", "2", "--scheduler", "tcp://127.0.0.1:1")])
def test_options_that_exclude_each_other_are_refused(model, nights, tmp_path, capsys, options):
    assert score(model, nights, tmp_path / "out", *options) == 2
    assert "--jobs" in capsys.readouterr().err and not (tmp_path / "out").exists()
