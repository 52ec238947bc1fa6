"""What stands in the place of the LSTM, and what is left out: the parts of benchmarks.leave_one_out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.leave_one_out import MACHINES, LastBreaths, Machine, machine_of, respiratory_rows, without
from config import DATASET_CONFIG, load_dataset_config
from detection.breathing_events import BreathingEvent
from detection.forecasts import network_input
from evaluation.nights import ScoredNight
from evaluation.results import LSTM
from evaluation.scored_recording import ScoredRecording
from recordings.windowing import EventMeta


def test_the_last_breaths_are_the_last_horizon_once_more():
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    x[5, 0] = np.nan
    changes, _ = LastBreaths(2, 6).changes(torch.from_numpy(x)[None], None)
    forecast = network_input(x)[:, None] + changes[0].numpy()
    seen = network_input(x)
    for t in range(40):
        for lead in range(6):
            expected = seen[max(t - 5 + lead, 0)]                # before the first step, the first one
            np.testing.assert_allclose(forecast[t, lead], expected, atol=1e-6)


@pytest.mark.parametrize("sizes", [(1,), (3, 100, 7)])
def test_their_state_is_carried_from_piece_to_piece(sizes):
    x = np.random.default_rng(1).normal(size=(200, 1)).astype(np.float32)
    model = LastBreaths(1, 6)
    whole, _ = model.changes(torch.from_numpy(x)[None], None)
    state, at, k, parts = None, 0, 0, []
    while at < len(x):
        n = sizes[k % len(sizes)]
        part, state = model.changes(torch.from_numpy(x[at : at + n])[None], state)
        parts.append(part)
        at, k = at + n, k + 1
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_of_a_machine_is_left_where_it_is_left_out(machine):
    data = load_dataset_config(DATASET_CONFIG, "cpap_flow")
    left = without(machine, data)
    assert {machine_of(name) for name in left.split.test} == {machine}
    assert {machine_of(name) for name in left.split.train} == set(MACHINES) - {machine}
    assert sorted(left.split.names) == sorted(data.split.names) and left.split.test_fraction == 0
    assert left.labels == data.labels and left.channels == data.channels


def test_false_events_with_and_without_the_least_duration():
    def night(*spans):
        events = [BreathingEvent("apnea", "flow", *span, *[np.nan] * 6) for span in spans]
        return ScoredNight(events, [], [], SimpleNamespace(breathing_hours=2.0))

    none = np.empty(0)
    labelled = [EventMeta(start_s=100.0, end_s=112.0, kind="apnea")]
    seen = {LSTM: [ScoredRecording("jl_1", none, none, none.astype(bool), [], [], labelled)]}
    found = (100.0, 112.0), (300.0, 311.0)
    machine = Machine(seen, {"jl_1": night(*found)}, {"jl_1": night(*found, (500.0, 508.0), (600.0, 609.0))})
    (head, row, _), _ = respiratory_rows([{"jl": machine}], "device")
    cells = dict(zip(head, row, strict=True))
    assert (cells["unpaired an hour"], cells["without the least duration"]) == ("0.50", "1.50")
    assert cells["F1 at IoU 0.2"] == "0.67" and cells["AHI found, labelled"] == "1.0, 0.5"
