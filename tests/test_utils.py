import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import ROOT, jsonable, process_group, seed_everything


@pytest.mark.parametrize(("module", "absent"), [("utils", "numpy"), ("utils", "torch"), ("windowing", "pandas")])
def test_an_import_waits_until_there_is_work(module, absent):
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


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
