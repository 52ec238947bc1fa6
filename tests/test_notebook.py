"""The notebook runs from its first cell to its last, and is committed without outputs."""

import json

import matplotlib.pyplot as plt
import pytest

from utils import ROOT

NOTEBOOK = json.loads((ROOT / "notebooks" / "first_hour.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_no_outputs():
    assert len(CODE) >= 8
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_its_links_lead_somewhere():
    texts = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    links = [part.partition(")")[0].partition("#")[0] for part in texts.split("](")[1:]]
    assert len(links) >= 4 and all((ROOT / "notebooks" / link).is_file() for link in links)


@pytest.mark.slow
def test_the_notebook_runs(capsys):
    plt.switch_backend("Agg")
    names = {"__name__": "__main__"}
    for number, source in enumerate(CODE):
        exec(compile(source, f"cell {number}", "exec"), names)
    assert set(names["events"]["kind"]) & {"apnea"} and len(names["steps"]) == pytest.approx(4500, abs=5)
    assert "start of an event" in capsys.readouterr().out
    plt.close("all")
