import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import ROOT, ArgumentParser, jsonable, lazy_import, process_group, run_cli, seed_everything


@pytest.mark.parametrize(("module", "absent"), [("utils", "numpy"), ("utils", "torch"), ("windowing", "pandas.core")])
def test_an_import_waits_until_there_is_work(module, absent):
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def scripts():
    return sorted(path for path in ROOT.glob("*.py") if "ArgumentParser(__doc__)" in path.read_text())


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_help_waits_for_nothing_heavy(script):
    heavy = ("torch", "pandas.core", "matplotlib", "sklearn", "scipy.stats", "scipy.signal", "jinja2.environment")
    code = (
        f"import runpy, sys\nsys.argv = [{script.name!r}, '--help']\n"
        f"try:\n    runpy.run_path({str(script)!r}, run_name='__main__')\nexcept SystemExit as ended:\n"
        f"    sys.exit(ended.code or ', '.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and script.name in done.stdout


def test_a_lazy_module_is_loaded_when_it_is_used_and_a_missing_one_is_an_error():
    code = (
        "import sys\nfrom utils import lazy_import\npd = lazy_import('pandas')\n"
        "assert 'pandas.core' not in sys.modules and lazy_import('pandas') is pd\n"
        "import pandas\nassert pandas is pd and pd.Series([1, 2]).sum() == 3 and 'pandas.core' in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        lazy_import("no_such_module")


def test_what_the_file_system_refuses_is_one_line(capsys):
    def body():
        raise OSError(28, "No space left on device", "scores.csv")

    assert run_cli(body) == 2
    line = "error: scores.csv: No space left on device; check the path, its permissions and the space that is left\n"
    assert capsys.readouterr().err == line


def test_a_wrong_argument_is_one_line_and_none_may_be_cut_short(capsys):
    parser = ArgumentParser("What it does")
    parser.add_argument("--seeds", type=int)
    for words in (["--seed", "3"], ["--seeds", "x"], ["--seeds"], ["more"]):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(words)
        err = capsys.readouterr().err
        assert end.value.code == 2 and err.count("\n") == 1 and err.startswith("error: ") and "--help" in err


def test_plain_values_of_numpy_by_hand():
    given = {
        "array": np.array([[1.0, np.nan], [np.inf, 2.5]]), 3: np.int8(7), "flag": np.bool_(True),
        "nested": (np.float32(0.5), [np.array(4), -math.inf]), "path": Path("a/b"), "text": "é", "none": None,
    }  # fmt: skip
    expected = {
        "array": [[1.0, None], [None, 2.5]], "3": 7, "flag": True,
        "nested": [0.5, [4, None]], "path": "a/b", "text": "é", "none": None,
    }  # fmt: skip
    assert json.loads(json.dumps(jsonable(given), allow_nan=False)) == expected


def test_seeding_repeats_draws_and_spends_no_time_on_filling_memory():
    seed_everything(3)
    first = torch.rand(4)
    seed_everything(3)
    assert torch.equal(torch.rand(4), first)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as rank:
        assert rank == 0 and not torch.distributed.is_initialized()
