"""Every fault of the table is refused: exit code 2, one line that names the place, nothing written."""

import sys
from collections import Counter
from dataclasses import replace

import pictures
import pytest
import warm
from input_faults import FAULTS, faults_of, make_project, nothing, outcome_of, tree_of
from small_nab import use_small_networks

from utils import ROOT

pytestmark = pytest.mark.robustness

for package in ("pyedflib", "wfdb", "onnx", "onnxruntime"):
    pytest.importorskip(package)
AS_A_USER = {                                                # by a process of its own: packages print as they like
    "raw CSV: binary junk", "EDF: a CSV named .edf", "pure_lstm_config.json: NaN",
    "run to resume: checkpoint cut off", "stream_detect: an image", "nab_benchmark: text in a value",
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with pictures.blank():
        return make_project(tmp_path_factory.mktemp("faults") / "project")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_one_line_that_names_the_place_and_nothing_is_written(project, tmp_path, fault):
    outcome = outcome_of(fault, project, tmp_path / "work")
    assert not faults_of(fault, outcome), outcome


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if str(fault) in AS_A_USER], ids=str)
def test_a_process_refuses_as_well(project, tmp_path, fault):
    work = tmp_path / "work"
    outcome = outcome_of(fault, project, work)                   # it leaves the folder as the fault had made it
    before = tree_of(work)
    command = [sys.executable, str(ROOT / f"{fault.argv[0]}.py"), *fault.argv[1:]]
    with (work / "stdin").open("rb") as lines:
        done = warm.run(command, stdin=lines, cwd=work)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (2, "", outcome.lines)
    assert tree_of(work) == before


def test_the_table_holds_every_entry_point_and_each_fault_once():
    faults = Counter(map(str, FAULTS))
    assert max(faults.values()) == 1 and set(faults) >= AS_A_USER
    paths = [path.relative_to(ROOT) for pattern in ("*.py", "[!tb]*/*.py") for path in ROOT.glob(pattern)]
    scripts = {".".join(p.with_suffix("").parts) for p in paths if "Parser(__doc__)" in (ROOT / p).read_text()}
    assert {fault.argv[0] for fault in FAULTS} == scripts


OTHER_DATA = ("nab.vus", "nab.tsbad")                      # needs 14 series; needs files of another kind
SOUND = {f.entry: f for f in FAULTS if f.make is not nothing and f.argv[0] not in OTHER_DATA}


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("entry", SOUND)
def test_without_the_fault_it_works(project, tmp_path, entry, monkeypatch):
    use_small_networks(monkeypatch)                              # of NAB's benchmark
    outcome = outcome_of(replace(SOUND[entry], make=nothing), project, tmp_path / "work")
    assert outcome.code == 0, outcome
