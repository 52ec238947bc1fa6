import dataclasses

import numpy as np
import pytest
import torch

from nab.online_lstm import FIRST_BLOCK, BatchedLSTMs, OnlineOptions, _updates_at, forecast_online, window_ends

pytestmark = pytest.mark.slow

SMALL = OnlineOptions(
    hidden_units=6, members=2, phases=1, horizon=3, window=12, windows=3, warm_up_blocks=25, updates=2
)  # fmt: skip


def make_series(lengths=(70, 50, 60)) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    waves = [np.sin(np.arange(n) / (2 + k)) for k, n in enumerate(lengths)]
    return [np.stack([wave, -2 * wave], axis=1) + 0.1 * generator.normal(size=(len(wave), 2)) for wave in waves]


def test_a_network_computes_what_torch_computes():
    """Our gates are input, forget, output, cell; torch's are input, forget, cell, output."""
    nets = BatchedLSTMs(1, 1, dataclasses.replace(SMALL, members=1), seed=3)
    into, recurrent, bias, head, head_bias = (weight[0] for weight in nets.weights)
    order = torch.cat([torch.arange(12), torch.arange(18, 24), torch.arange(12, 18)])
    reference = torch.nn.LSTM(2, 6, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(into.T[order])
        reference.weight_hh_l0.copy_(recurrent.T[order])
        reference.bias_ih_l0.copy_(bias[0, order])
        reference.bias_hh_l0.zero_()
        x = torch.randn(4, 9, 2, generator=torch.Generator().manual_seed(0))
        expected = reference(x)[0][:, -1] @ head + head_bias
        torch.testing.assert_close(nets.forecast(nets.states(x[None]))[0, ..., 0], expected)


def test_a_step_of_training_is_that_of_torch_adam():
    """The gradients of a plain computation, left to autograd, are those that `update` puts together itself."""

    def forecast(x, weights):
        into, recurrent, bias, head, head_bias = weights
        hidden = cell = torch.zeros(3, 6)
        made = []
        for step in range(8):
            gate = x[0, :, step] @ into[0] + hidden @ recurrent[0] + bias[0]
            take, keep, give = (torch.sigmoid(part) for part in gate[:, :18].split(6, dim=1))
            cell = keep * cell + take * torch.tanh(gate[:, 18:])
            hidden = give * torch.tanh(cell)
            made.append(hidden @ head[0] + head_bias[0])
        return torch.stack(made, dim=1)[None, ..., None]                         # (1, B, T, H, 1)

    nets = BatchedLSTMs(1, 1, dataclasses.replace(SMALL, members=1), seed=3)
    reference = [weight.clone().requires_grad_() for weight in nets.weights]
    optimizer = torch.optim.Adam(reference, lr=0.02, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(1, 3, 8, 2, generator=generator)
        target = torch.randn(1, 3, 8, 3, 1, generator=generator)
        loss = torch.nn.functional.huber_loss(forecast(x, reference), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference, 1.0)
        optimizer.step()
        nets.update(x, target, 0.02)
    for ours, theirs in zip(nets.weights, reference, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=2e-5, rtol=1e-4)


def test_phases_learn_together_but_see_no_later_step():
    options = dataclasses.replace(SMALL, phases=4)
    series = make_series((150,))
    for cut in (90, 121):
        other = [np.concatenate([series[0][:cut], 5 - series[0][cut:]])]
        (first,), (second,) = forecast_online(series, options), forecast_online(other, options)
        np.testing.assert_array_equal(first[:cut], second[:cut])
        assert not np.allclose(first[cut:], second[cut:])
    assert np.isnan(first[: 4 * FIRST_BLOCK]).all() and np.isfinite(first[4 * FIRST_BLOCK :]).all()


def test_updates_are_spread_over_the_phases():
    options = OnlineOptions()                                                  # 6 a block in the warm-up, then 1 in 2
    due = [_updates_at(now, options) for now in range(400)]
    assert sum(due[:4]) == 6 and sum(due[:240]) == 360 and sum(due[240:]) == 20
    assert {now % 4 for now in range(240, 400) if due[now]} == {0, 1, 2, 3}


def test_unknown_targets_do_not_change_the_weights():
    x, unknown = torch.randn(2, 3, 8, 2), torch.full((2, 3, 8, 3, 1), torch.nan)
    nets = BatchedLSTMs(1, 1, SMALL, seed=0)
    before = [weight.clone() for weight in nets.weights]
    nets.update(x, unknown, 0.1)
    for weight, old in zip(nets.weights, before, strict=True):
        torch.testing.assert_close(weight, old)


def test_batched_series_get_what_each_gets_alone():
    series = make_series()
    together = forecast_online(series, SMALL, seed=1)
    for one, forecast in zip(series, together, strict=True):
        assert forecast.shape == (len(one), 3, 2)
        (alone,) = forecast_online([one], SMALL, seed=1)
        np.testing.assert_allclose(forecast, alone, atol=1e-4)


@pytest.mark.parametrize("cut", [20, 50, 51])
def test_later_values_change_no_earlier_forecast(cut):
    """In the warm-up, and after it with and without an update at the last step before the cut."""
    series = make_series((70,))
    other = [np.concatenate([series[0][:cut], 5 - series[0][cut:]])]
    (first,), (second,) = forecast_online(series, SMALL), forecast_online(other, SMALL)
    np.testing.assert_array_equal(first[:cut], second[:cut])
    assert not np.allclose(first[cut:], second[cut:])


def test_an_update_mixes_the_newest_window_a_recent_one_and_old_ones():
    generator = np.random.default_rng(0)
    ends = np.array([window_ends(500, SMALL, generator) for _ in range(300)])
    assert (ends[:, 0] == 500).all()
    assert ends[:, 1].min() == 500 - SMALL.window + 1 and ends[:, 1].max() == 500
    assert ends[:, 2].min() < 50 and ends[:, 2].max() <= 500 and 200 < ends[:, 2].mean() < 300


def test_networks_may_be_frozen_after_the_warm_up():
    """A value changes later forecasts through the inputs only: a window later, they are the same again."""
    frozen = dataclasses.replace(SMALL, update_every=0)
    series = make_series((70,))
    other = [series[0].copy()]
    other[0][40] += 5
    (first,), (second,) = forecast_online(series, frozen), forecast_online(other, frozen)
    assert not np.allclose(first[40:45], second[40:45])
    np.testing.assert_array_equal(first[40 + SMALL.window + 1 :], second[40 + SMALL.window + 1 :])
    (learned,), (learned_other,) = forecast_online(series, SMALL), forecast_online(other, SMALL)
    assert not np.array_equal(learned[60:], learned_other[60:])


def test_seeds_differ_and_repeat():
    series = make_series((40,))
    (first,), (again,), (other,) = (forecast_online(series, SMALL, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[20:], other[20:])


@pytest.mark.parametrize("late", [False, True])
def test_it_learns_a_wave_and_continues_to_learn(late):
    """After the warm-up, a wave that the first steps did not show is learned as well."""
    options = dataclasses.replace(SMALL, hidden_units=12, warm_up_blocks=60, updates=4, rate=0.01)
    steps = np.arange(500)
    wave = np.where(steps < 60, 0.0, np.sin(steps / 2)) if late else np.sin(steps / 2)
    (forecast,) = forecast_online([wave[:, None]], options)
    error = forecast[400:-3, 0, 0] - wave[401:-2]
    persistence = wave[400:-3] - wave[401:-2]
    assert np.sqrt(np.mean(error**2)) < 0.3 * np.sqrt(np.mean(persistence**2))
