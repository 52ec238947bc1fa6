"""The simulated recordings: do the channels show what the labels state?"""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from recordings import simulator
from recordings.simulator import CHANNELS, KINDS, plan_sessions, simulate_session, write_sessions
from utils import DataError

SEEDS = (1, 2, 3)
ASLEEP = [kind for kind in KINDS if KINDS[kind].asleep_only]


def session(seed: int, *kinds: str, minutes: float = 5.0, activity: str = "asleep") -> simulator.Session:
    return simulate_session(seed, minutes, kinds, activity)


def samples(frame: pd.DataFrame, name: str, start: float, end: float) -> np.ndarray:
    """The values of one channel, start <= t < end, without the cells its rate leaves empty."""
    return frame.loc[(frame.t_s >= start) & (frame.t_s < end), name].dropna().to_numpy()


def swing(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95) - np.quantile(values, 0.05))


def span(made: simulator.Session) -> tuple[float, float]:
    assert len(made.events) == 1
    return made.events.start_s[0], made.events.end_s[0]


def belt_correlation(frame: pd.DataFrame, start: float, end: float) -> float:
    return np.corrcoef(samples(frame, "thorax_au", start, end), samples(frame, "abdomen_au", start, end))[0, 1]


def inspiration_onsets(frame: pd.DataFrame) -> np.ndarray:
    """Rises of the flow through 15 % of its swing, a naive breath counter."""
    flow = frame.flow_lpm.interpolate().bfill() - frame.flow_lpm.median()
    rising = (flow > 0.15 * swing(flow.to_numpy())).to_numpy()
    return frame.t_s.to_numpy()[1:][rising[1:] & ~rising[:-1]]


@pytest.fixture(autouse=True)
def without_nuisances(monkeypatch):
    """By default, lose nothing outside a labelled dropout, and keep the posture."""
    for name in ("GAPS_PER_H", "BRIEF_DROPOUTS_PER_H", "POSTURES_PER_H"):
        monkeypatch.setattr(simulator, name, 0)


def test_same_seed_same_session_and_other_seed_another():
    kinds = ("cough", "hypopnea")
    first, again = simulate_session(4, 6, kinds), simulate_session(4, 6, kinds)
    pd.testing.assert_frame_equal(first.frame, again.frame)
    pd.testing.assert_frame_equal(first.events, again.events)
    assert not first.frame.equals(simulate_session(5, 6, kinds).frame)


def test_default_plan_has_thirty_test_events_of_each_kind():
    plans = plan_sessions()
    assert Counter(plan.role for plan in plans) == {"train": 12, "calibration": 6, "test": 24}
    assert Counter(kind for plan in plans if plan.role == "test" for kind in plan.kinds) == dict.fromkeys(KINDS, 30)
    assert all(2 <= len(plan.kinds) <= 4 for plan in plans if plan.role != "test")
    assert not any(set(plan.kinds) & set(ASLEEP) for plan in plans if plan.activity == "awake")
    assert len({plan.seed for plan in plans}) == len(plans)


@pytest.mark.parametrize("seed", range(6))
def test_default_plan_fits_and_leaves_five_hours_of_normal_breathing(seed):
    normal_s = 0.0
    for plan in plan_sessions(seed):
        events = simulator.plan_events(np.random.default_rng(plan.seed), 1800, plan.kinds)
        if plan.role == "test":
            normal_s += 1800 - sum(e.end_s - e.start_s + KINDS[e.kind].recovery_s for e in events)
    assert normal_s > 5 * 3600


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_are_valid_apart_and_all_there(seed):
    made = session(seed, *KINDS, minutes=30)
    events = made.events
    assert list(events.columns) == ["start_s", "end_s", "label", "source", "desaturation"]
    assert sorted(events.label) == sorted(KINDS) and set(events.source) == {"simulated"}
    assert (events.end_s > events.start_s).all() and events.end_s.iloc[-1] < made.frame.t_s.iloc[-1]
    assert (events.start_s.to_numpy()[1:] - events.end_s.to_numpy()[:-1] >= 60).all()
    apneas = events[events.label.isin(["central_apnea", "obstructive_apnea"])]
    assert (apneas.end_s - apneas.start_s >= 10).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["central_apnea", "obstructive_apnea"])
def test_apnea_stops_the_flow_and_only_a_central_one_the_belts(kind, seed):
    made = session(seed, kind)
    start, end = span(made)
    before = start - 40, start - 1
    assert swing(samples(made.frame, "flow_lpm", start, end)) < 0.1 * swing(samples(made.frame, "flow_lpm", *before))
    for belt in ("thorax_au", "abdomen_au"):
        effort = swing(samples(made.frame, belt, start + 1, end)) / swing(samples(made.frame, belt, *before))
        assert effort < 0.25 if kind == "central_apnea" else effort > 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_obstruction_sets_chest_against_belly_and_effort_grows(seed):
    made = session(seed, "obstructive_apnea")
    start, end = span(made)
    assert belt_correlation(made.frame, start - 40, start - 1) > 0.7
    assert belt_correlation(made.frame, start + 4, end) < 0
    middle = (start + end) / 2
    belly = [swing(samples(made.frame, "abdomen_au", *half)) for half in ((start, middle), (middle, end))]
    assert belly[1] > belly[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_hypopnea_takes_30_to_70_percent_of_the_flow(seed, monkeypatch):
    monkeypatch.setattr(simulator, "VARIANCE_SHARES", (0.2, 0.0, 0.02))     # calm breaths measure better
    monkeypatch.setattr(simulator, "SIGHS_PER_H", (0, 0))
    made = session(seed, "hypopnea")
    start, end = span(made)
    before = swing(samples(made.frame, "flow_lpm", start - 40, start))
    left = swing(samples(made.frame, "flow_lpm", start, end)) / before
    assert 0.25 < left < 0.75


@pytest.mark.parametrize("seed", SEEDS)
def test_oxygen_falls_after_a_delay_and_comes_back(seed, monkeypatch):
    monkeypatch.setattr(simulator, "SPO2_DROP", (6.0, 8.0, 10.0))
    made = session(seed, "central_apnea")
    start, end = span(made)
    oxygen = made.frame[["t_s", "spo2_pct"]].dropna().set_index("t_s").spo2_pct
    usual = oxygen[start - 20:start].median()
    assert oxygen[start:start + 7].min() >= usual - 1
    lowest = oxygen[start:end + 30].idxmin()
    assert oxygen[lowest] <= usual - 3 and lowest > end
    assert oxygen[end + 75:end + 90].median() >= usual - 2


def test_some_hypopneas_lose_three_points_and_the_label_says_which():
    fallen = []
    for seed in range(16):
        made = session(seed, "hypopnea")
        start, end = span(made)
        label = made.events.loc[made.events.label == "hypopnea", "desaturation"].item()
        oxygen = samples(made.frame, "spo2_pct", start - 20, end + 45)
        oxygen = oxygen[~np.isin(oxygen, simulator.SPO2_SENTINELS)]
        assert np.median(oxygen[:20]) - oxygen.min() == pytest.approx(label, abs=1.6)    # whole numbers, and noise
        fallen.append(label >= 3)
    assert 2 <= sum(fallen) <= 12


def test_oxygen_falls_more_in_an_apnea_than_in_a_hypopnea_of_its_length():
    person = simulator.draw_person(np.random.default_rng(0))
    start = 3.0 * np.arange(200)
    falls = []
    for share in (1.0, 0.7, 0.5, 0.3, 0.0):
        volume = np.where((start >= 300) & (start < 330), share, 1.0)
        same = np.full(200, 1.5)
        breaths = simulator.Breath(start, np.full(200, 3.0), same, 0 * same, same, volume, volume, 0 * same)
        falls.append(simulator.spo2_pct(np.random.default_rng(0), person, breaths, 590)[1].max())
    assert falls[0] == pytest.approx(0, abs=0.01) and (np.diff(falls) > 0).all()
    assert falls[2] < 0.6 * falls[4]                              # half the air: less than half of what an apnea loses


@pytest.mark.parametrize("seed", SEEDS)
def test_heart_races_after_an_apnea(seed):
    made = session(seed, "obstructive_apnea")
    start, end = span(made)
    during = samples(made.frame, "hr_bpm", start, end).mean()
    assert samples(made.frame, "hr_bpm", end + 3, end + 12).mean() > during + 4


@pytest.mark.parametrize("seed", SEEDS)
def test_tachypnea_breathes_28_to_45_a_minute(seed):
    made = session(seed, "tachypnea")
    start, end = span(made)
    onsets = inspiration_onsets(made.frame)
    inside = onsets[(onsets > start) & (onsets < end)]
    assert 26 < 60 / np.diff(inside).mean() < 47


@pytest.mark.parametrize("seed", SEEDS)
def test_periodic_breathing_has_three_or_more_pauses(seed):
    made = session(seed, "periodic_breathing", minutes=7)
    start, end = span(made)
    onsets = inspiration_onsets(made.frame)
    inside = np.append(onsets[(onsets >= start - 1) & (onsets < end)], end)
    assert (np.diff(inside) > 7).sum() >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_cough_is_a_spike_out_of_the_mouth_and_a_jerk_of_the_chest(seed):
    made = session(seed, "cough")
    start, end = span(made)
    assert samples(made.frame, "flow_lpm", start, end).min() < -120
    before = np.ptp(samples(made.frame, "acc_g", start - 20, start - 2))
    assert np.ptp(samples(made.frame, "acc_g", start, end)) > 3 * before


@pytest.mark.parametrize("seed", SEEDS)
def test_motion_shakes_flow_belts_and_accelerometer(seed):
    made = session(seed, "motion")
    start, end = span(made)
    for name in ("flow_lpm", "thorax_au", "abdomen_au", "acc_g"):
        inside, before = (np.diff(samples(made.frame, name, *s)).std() for s in ((start, end), (start - 20, start)))
        assert inside > 2 * before, name


@pytest.mark.parametrize("seed", range(8))
def test_dropout_is_empty_or_a_sentinel_exactly_within_its_label(seed):
    made = session(seed, "sensor_dropout")
    start, end = span(made)
    lost_any = False
    for name, channel in CHANNELS.items():
        cells = made.frame[["t_s", name]].iloc[::channel.every]
        lost = cells[name].isna() | ((name == "spo2_pct") & cells[name].isin(simulator.SPO2_SENTINELS))
        inside = (cells.t_s >= start) & (cells.t_s < end)
        assert not lost[~inside].any() and lost[inside].nunique() == 1
        lost_any |= lost.any()
    assert lost_any


@pytest.mark.parametrize("seed", SEEDS)
def test_slipped_belt_loses_30_to_70_percent_and_the_other_none(seed, monkeypatch):
    monkeypatch.setattr(simulator, "VARIANCE_SHARES", (0.2, 0.0, 0.02))
    monkeypatch.setattr(simulator, "SIGHS_PER_H", (0, 0))
    made = session(seed, "belt_slip")
    start, end = span(made)
    slipped, whole = sorted(
        swing(samples(made.frame, belt, start + 3, end - 2)) / swing(samples(made.frame, belt, end + 3, end + 60))
        for belt in ("thorax_au", "abdomen_au"))
    assert 0.25 < slipped < 0.8 < whole < 1.25


def test_normal_breathing_keeps_the_measured_rates():
    """The 5, 50 and 95 % quantiles of all breaths lie within 25 % of the design's (asleep)."""
    rates = []
    for seed in range(10):
        onsets = inspiration_onsets(session(seed, minutes=10).frame)
        rates.append(60 / np.diff(onsets))
    found = np.quantile(np.concatenate(rates), (0.05, 0.5, 0.95))
    assert found == pytest.approx(simulator.RATE_PER_MIN["asleep"], rel=0.25)


def test_normal_breathing_has_no_long_pause_and_no_desaturation():
    for seed in range(5):
        frame = session(seed, minutes=10, activity="awake" if seed % 2 else "asleep").frame
        assert np.diff(inspiration_onsets(frame)).max() < 20
        assert np.ptp(samples(frame, "spo2_pct", 0, 600)) <= 4


def test_tidal_volume_is_the_integral_of_the_flow():
    person = simulator.draw_person(np.random.default_rng(0))
    one = simulator.Breath(*np.array([[0.0], [4.0], [1.5], [0.0], [2.0], [400.0], [400.0], [0.0]]))
    t = np.arange(0, 4, 0.001)
    _, inside, slope = simulator.lung_motion(person, one, t)
    assert inside.max() == pytest.approx(1) and inside[-1] == pytest.approx(0)
    assert np.cumsum(slope) * 0.001 == pytest.approx(inside, abs=0.01)
    assert 400 * slope[t < 1.5].sum() * 0.001 == pytest.approx(400, rel=0.01)


def test_slow_channels_have_empty_cells_and_rows_go_missing(monkeypatch):
    monkeypatch.setattr(simulator, "GAPS_PER_H", 12)
    frame = simulate_session(2, 20).frame
    assert list(frame.columns) == ["t_s", *CHANNELS]
    steps = np.diff(frame.t_s)
    assert steps.min() == pytest.approx(0.04) and 0.1 < steps.max() < 4
    assert frame.spo2_pct.notna().sum() == pytest.approx(20 * 60, rel=0.02)
    assert frame.thorax_au.notna().sum() == pytest.approx(20 * 60 * 12.5, rel=0.02)


def test_unknown_kind_and_too_many_events_are_refused():
    with pytest.raises(DataError, match="unknown kinds .*hiccup"):
        simulate_session(0, 5, ["hiccup"])
    with pytest.raises(DataError, match="3 minutes are too short for 9 events"):
        simulate_session(0, 3, ["cough"] * 9)
    with pytest.raises(DataError, match="expected 'asleep' or 'awake'"):
        simulate_session(0, 3, activity="running")


def test_written_files_read_back_as_simulated(tmp_path):
    path, = write_sessions(tmp_path, seed=3, minutes=15, train=1, calibration=0, test=0)
    plan, = plan_sessions(3, 15, 1, 0, 0)
    made = simulate_session(plan.seed, 15, plan.kinds, plan.activity)
    pd.testing.assert_frame_equal(pd.read_csv(path), made.frame, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv(path.with_suffix(".events.csv")), made.events, check_dtype=False)


def test_command_line_writes_once_then_reuses_and_mends(tmp_path, capsys):
    command = ["--out", str(tmp_path / "raw"), "--minutes", "10", "--train-sessions", "1",
               "--calibration-sessions", "1", "--test-sessions", "0"]
    assert simulator.main(command) == 0
    assert "2 simulated sessions" in capsys.readouterr().out
    files = sorted((tmp_path / "raw").iterdir())
    assert [f.name for f in files] == ["session_01.csv", "session_01.events.csv", "session_02.csv",
                                       "session_02.events.csv", "simulation.json"]
    before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}
    assert simulator.main(command) == 0
    assert all(f.stat().st_mtime_ns == before[f][1] for f in files)
    files[0].write_text("broken")
    assert simulator.main(command) == 0
    assert all(f.read_bytes() == before[f][0] for f in files)
