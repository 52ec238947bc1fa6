import numpy as np
import pytest
import torch

from lstm_model import INPUT_LIMIT, StackedLSTM


def build(channels=2, hidden_units=8, num_layers=2, horizon=3, seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return StackedLSTM(channels, hidden_units, num_layers, horizon, dropout).eval()


def draw_series(batch, steps, channels, seed=0):
    return torch.randn(batch, steps, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("horizon", [1, 5])
def test_every_step_has_a_forecast_of_every_lead_and_channel(channels, horizon):
    forecast, state = build(channels, horizon=horizon)(draw_series(4, 9, channels))
    assert forecast.shape == (4, 9, horizon, channels)
    assert [tuple(part.shape) for part in state] == [(2, 4, 8), (2, 4, 8)]


@pytest.mark.parametrize("piece", [1, 7, 1000])
@torch.inference_mode()
def test_pieces_with_carried_state_give_the_forecasts_of_one_pass(piece):
    model, x = build(3), draw_series(2, 1200, 3)
    x[0, 300:320, 1] = float("nan")
    whole, last = model(x)
    parts, state = [], None
    for start in range(0, x.shape[1], piece):
        forecast, state = model(x[:, start : start + piece], state)
        parts.append(forecast)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-5)
    for carried, expected in zip(state, last, strict=True):
        torch.testing.assert_close(carried, expected, rtol=0, atol=1e-5)


def test_a_forecast_depends_on_no_later_step():
    model, x = build(), draw_series(1, 40, 2)
    changed = x.clone()
    changed[:, 25:] += 3
    before, after = model(x)[0], model(changed)[0]
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.allclose(before[:, 25], after[:, 25])


@pytest.mark.parametrize("missing", ["some", "one channel", "all"])
def test_missing_values_never_yield_nan(missing):
    model, x = build(3), draw_series(2, 60, 3)
    if missing == "some":
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4] = float("nan")
    else:
        x[:, :, 1 if missing == "one channel" else slice(None)] = float("nan")
    forecast, state = model(x)
    assert torch.isfinite(forecast).all()
    assert all(torch.isfinite(part).all() for part in state)
    forecast.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_bits_of_a_missing_value_do_not_matter():
    one, other = np.array([0x7FC00000, 0xFFC12345], np.uint32).view(np.float32)      # two different NaNs
    model = build()
    first, second = draw_series(1, 30, 2), draw_series(1, 30, 2)
    first.numpy()[0, 10:15, 1] = one
    second.numpy()[0, 10:15, 1] = other
    assert torch.equal(model(first)[0], model(second)[0])


def test_a_missing_value_is_told_from_a_value_at_the_center():
    model, x = build(), draw_series(1, 30, 2)
    missing = x.clone()
    x[0, 10, 1], missing[0, 10, 1] = 0.0, float("nan")
    assert not torch.allclose(model(x)[0][0, 10], model(missing)[0][0, 10])


@pytest.mark.parametrize("spike", [1e4, 1e30, float("inf")])
def test_a_spike_counts_as_the_input_limit(spike):
    model, x = build(), draw_series(1, 30, 2)
    limited = x.clone()
    x[0, 10, 0], limited[0, 10, 0] = -spike, -INPUT_LIMIT
    assert torch.equal(model(x)[0], model(limited)[0])


def test_the_head_forecasts_the_change_from_the_current_step():
    model, x = build(), draw_series(1, 20, 2)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    forecast = model(x)[0]
    assert torch.equal(forecast, x.unsqueeze(2).expand(1, 20, 3, 2))


@pytest.mark.parametrize("shape", [(4, 9), (4, 9, 3), (1, 4, 9, 2)])
def test_a_wrong_shape_is_named_with_the_right_one(shape):
    with pytest.raises(ValueError) as error:
        build(channels=2)(torch.zeros(shape))
    assert "(B, T, 2)" in str(error.value) and str(shape) in str(error.value)


def test_dropout_with_one_layer_is_left_out_without_a_warning(recwarn):
    assert build(num_layers=1, dropout=0.5).lstm.dropout == 0.0
    assert build(num_layers=2, dropout=0.5).lstm.dropout == 0.5
    assert not recwarn.list
