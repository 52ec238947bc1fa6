import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.plot_nab import main, plot_costliest
from nab.benchmark import read_benchmark, write_alarms

ROWS = 400


@pytest.fixture
def nab(tmp_path):
    labels = {}
    times = pd.date_range("2020-01-01", periods=ROWS, freq="5min").strftime("%Y-%m-%d %H:%M:%S")
    for name in ("real/found.csv", "real/missed.csv"):
        path = tmp_path / "NAB" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"timestamp": times, "value": np.arange(ROWS) % 7}).to_csv(path, index=False)
        labels[name] = [[times[200], times[220]]]
    (tmp_path / "NAB" / "labels").mkdir()
    (tmp_path / "NAB" / "labels" / "combined_windows.json").write_text(json.dumps(labels))
    return tmp_path / "NAB"


def make_scores() -> dict[str, np.ndarray]:
    scores = {"real/found.csv": np.zeros(ROWS), "real/missed.csv": np.zeros(ROWS)}
    scores["real/found.csv"][200] = 3.0
    return scores


def test_the_costliest_series_stands_first_with_what_it_lost(nab):
    figure = plot_costliest(read_benchmark(nab), make_scores(), "title")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["real/missed.csv: 50.0 points lost", "real/found.csv: 0.0 points lost"]


def test_the_command_writes_a_small_figure(nab, tmp_path, capsys):
    write_alarms(tmp_path, "some", read_benchmark(nab), make_scores(), 1.0)
    figure = tmp_path / "figure.png"
    arguments = ["--nab-root", str(nab), "--out", str(tmp_path), "--figure", str(figure), "--detector"]
    assert main([*arguments, "some"]) == 0
    assert figure.read_bytes()[:4] == b"\x89PNG" and figure.stat().st_size < 100_000
    assert main([*arguments, "other"]) == 2
    assert "other_found.csv: missing" in capsys.readouterr().err
