import numpy as np

from nab.split_halves import random_halves, score_by_halves


def test_halves_take_half_of_each_category():
    names = [f"a/{k}.csv" for k in range(6)] + [f"b/{k}.csv" for k in range(5)]
    halves = random_halves(names, 30)
    assert (halves[:, :6].sum(axis=1) == 3).all()
    assert set(halves[:, 6:].sum(axis=1)) == {2, 3}
    assert len({half.tobytes() for half in halves}) > 20
    np.testing.assert_array_equal(halves, random_halves(names, 30))


def test_the_choice_of_one_half_is_graded_on_the_other():
    """Series a wants the second threshold, b the third: each half's choice is what the other is graded with."""
    gains = np.array([[[0.0, 1.0, -3.0], [0.0, 0.25, 1.0]]])                     # one setting, two series
    np.testing.assert_allclose(score_by_halves(gains, 2, np.array([[True, False]])), [100 * (0.25 - 3) / 2])


def test_parameters_are_chosen_on_one_half_too():
    good, even = [[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.5], [0.0, 0.5]]
    # the half with a chooses `good`, which gains nothing on b; the half with b chooses `even`, which gains 0.5 on a
    found = score_by_halves(np.array([good, even]), 2, np.array([[True, False]]))
    np.testing.assert_allclose(found, [100 * (0.0 + 0.5) / 2])
