"""Agreement of nights with their labels, against published and hand-worked numbers."""

import math

import numpy as np
import pytest

from evaluation.agreement import agreement_of, f1_of, intraclass_correlation
from evaluation.results import NightAgreement
from reports.tables import agreement_rows, confusion_rows, night_agreement_rows


def night(labelled, found, paired, hours=1.0, name="one"):
    rates = (labelled / hours, found / hours) if hours else (math.nan, math.nan)
    f1 = 2 * paired / (labelled + found) if labelled + found else math.nan
    return NightAgreement(recording=name, hours=hours, labelled=labelled, found=found, paired=paired,
                          labelled_ahi=rates[0], found_ahi=rates[1], f1=f1)  # fmt: skip


NIGHTS = [night(10, 12, 9), night(4, 4, 4), night(20, 17, 15, hours=2.0), night(0, 1, 0)]


def test_the_icc_is_that_of_shrout_and_fleiss():
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert intraclass_correlation(ratings) == pytest.approx(0.29, abs=0.005)         # their table 4, ICC(2,1)


def test_the_icc_asks_for_the_same_numbers_not_only_the_same_order():
    x = np.array([1.0, 2.0, 3.0])
    assert intraclass_correlation(np.column_stack([x, x])) == pytest.approx(1.0)
    # mean squares by hand: nights 2, raters 6, rest 0; 2 / (2 + 2 * 6 / 3)
    assert intraclass_correlation(np.column_stack([x, x + 2])) == pytest.approx(1 / 3)
    assert math.isnan(intraclass_correlation(np.ones((3, 2))))


def test_bias_error_and_limits_by_hand():
    found = agreement_of(NIGHTS)                       # errors an hour: 2, 0, -1.5, 1
    assert found.bias.value == pytest.approx(0.375) and found.mae.value == pytest.approx(1.125)
    spread = 1.96 * math.sqrt(((2 - 0.375) ** 2 + 0.375**2 + 1.875**2 + 0.625**2) / 3)
    assert found.limits == pytest.approx([0.375 - spread, 0.375 + spread])
    assert found.f1.value == pytest.approx(2 * 28 / (34 + 34)) and found.nights == NIGHTS


def test_intervals_hold_the_value_and_are_the_same_again():
    first = agreement_of(NIGHTS)
    assert first == agreement_of(NIGHTS)
    for one in (first.bias, first.mae, first.icc, first.f1):
        assert one.low < one.value < one.high
    # a mean of n draws: its interval is near the normal one
    many = [night(10, 10 + error, 10) for error in np.random.default_rng(3).integers(-5, 6, size=200).tolist()]
    errors = [one.found_ahi - one.labelled_ahi for one in many]
    half = 1.96 * np.std(errors) / math.sqrt(len(errors))
    assert agreement_of(many).bias.high - agreement_of(many).bias.value == pytest.approx(half, rel=0.15)


def test_draws_in_a_batch_are_what_one_after_the_other_gives():
    random = np.random.default_rng(0)
    ratings, counts = random.normal(size=(5, 7, 2)), random.integers(1, 9, size=(5, 7, 3))
    np.testing.assert_allclose(intraclass_correlation(ratings), [intraclass_correlation(one) for one in ratings])
    np.testing.assert_allclose(f1_of(counts), [f1_of(one) for one in counts])


def test_one_night_or_nights_without_breathing_agree_in_nothing():
    assert agreement_of([night(3, 3, 3)]) is None
    assert agreement_of([night(3, 3, 3), night(1, 2, 1, hours=0.0)]) is None
    empty = agreement_of([night(0, 0, 0), night(0, 0, 0)])
    assert empty.bias.value == 0 and math.isnan(empty.f1.value) and math.isnan(empty.icc.value)


def test_tables_say_what_was_measured():
    header, row = agreement_rows([agreement_of(NIGHTS)])
    assert row[:2] == ["found less labelled", "4"] and row[-1].startswith("0.82 (") and len(row) == len(header)
    assert night_agreement_rows(NIGHTS)[3:] == [["one", "20", "17", "15", "10.0", "8.5", "0.81"],
                                                ["one", "0", "1", "0", "0.0", "1.0", "0.00"]]  # fmt: skip
    kinds = {"central_apnea": {"central_apnea": 3, "": 1}, "hypopnea": {"apnea": 1}}
    assert confusion_rows(kinds) == [
        ["labelled as, found as", "apnea", "central apnea", "not found"],
        ["central apnea", "0", "3", "1"], ["hypopnea", "1", "0", "0"],
    ]  # fmt: skip
