"""Recordings scored each by itself, on a Dask cluster or one after the other: `--score ... --jobs N`."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
from pages import check_sound, page_of
from project import fails

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
    (folder / "torn.csv").write_text("t_s,flow\n0,1\n0.2,1\n0.1,1\n")
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
