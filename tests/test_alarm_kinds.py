"""Kinds of alarms, from signals whose range is known."""

import numpy as np
import pytest

from detection.alarm_kinds import kind_of_alarm

EXPECTED = np.array([60.0, 2.0, 0.1])                                # of flow, belt, accelerometer
MEASURES = ("airflow", "effort", "other")


def swings(flow, belt, shock):
    return np.array([[0.0, 0.0, 0.0], [flow, belt, shock], [np.nan, np.nan, np.nan]])


@pytest.mark.parametrize(
    ("component", "leads", "ranges", "kind"),
    [
        ("transient_error", "effort", (120.0, 2.0, 0.1), "cough"),   # twice the range: just a cough
        ("transient_error", "effort", (119.0, 2.0, 9.0), "motion"),
        ("transient_error", "other", (np.nan, 2.0, 9.0), "motion"),
        ("transient_error", "airflow", (90.0, 2.0, 0.1), "other"),
        ("pace", "airflow", (300.0, 2.0, 0.1), "tachypnea"),
        ("joint", "other", (300.0, 2.0, 9.0), "other"),
        ("amplitude_drop", "airflow", (5.0, 0.1, 0.0), "other"),
    ],
)  # fmt: skip
def test_the_kind_follows_what_led_and_whether_air_moved(component, leads, ranges, kind):
    assert kind_of_alarm(component, leads, swings(*ranges), EXPECTED, MEASURES) == kind


def test_without_breathing_an_alarm_is_an_anomaly():
    assert kind_of_alarm("transient_error", "other", swings(0, 0, 9), EXPECTED, ("other",) * 3) == "anomaly"
