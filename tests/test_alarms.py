import numpy as np

from nab.alarms import alarm_rows


def naive_alarms(scores, probationary, threshold):
    found = []
    for row in range(probationary, len(scores)):
        bar = threshold + 0.5 * np.log10(1 + len(found)) + 0.25 * np.log10(row / probationary)
        rested = not found or row - found[-1] > probationary // 5
        if rested and scores[row] > 0.3 and scores[row] >= bar:
            found.append(row)
    return found


def test_alarms_by_hand():
    """100 rows are not graded; each alarm is followed by a pause of 20 rows and raises the bar."""
    scores = np.zeros(300)
    scores[[50, 100, 120, 121]] = 9.0, 1.0, 9.0, 1.2
    assert alarm_rows(scores, 100, 1.0).tolist() == [100, 121]                     # 120 is in the pause
    scores[121] = 1.15                                             # 1 + .5 log10(2) + .25 log10(1.21) = 1.171
    assert alarm_rows(scores, 100, 1.0).tolist() == [100]


def test_alarms_are_those_of_a_plain_loop():
    scores = np.random.default_rng(0).exponential(size=(20, 500))
    for row in scores:
        for threshold in (0.1, 0.9, 1.6):
            assert alarm_rows(row, 60, threshold).tolist() == naive_alarms(row, 60, threshold)


def test_no_alarm_at_infinity_or_without_scores():
    assert alarm_rows(np.full(100, 9.0), 20, np.inf).size == 0
    assert alarm_rows(np.zeros(100), 20, 0.0).size == 0
