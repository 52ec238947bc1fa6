import copy
import math
import os
import socket
import sys

import numpy as np
import pytest
import torch
import warm

from config import TrainingConfig
from data_loader import TrainingWindows, validation_batches
from lstm_model import StackedLSTM
from trainers import LOSS_FLOOR, Trainer, forecast_loss, naive_losses, on_device, process_group
from utils import ROOT, DataError

pytestmark = pytest.mark.slow

NAN = float("nan")
HORIZON, WARM_UP, STEPS = 3, 2, 12


def draw_series(seed=0, length=200, channels=2):
    """Return a noisy wave (T, C) with a missing segment in its second channel."""
    random, t = np.random.default_rng(seed), np.arange(length)[:, None]
    series = np.sin(t / 3 + np.arange(channels)) + 0.1 * random.normal(size=(length, channels))
    series[60:70, 1] = np.nan
    return series.astype(np.float32)


def make_windows(seed=0, updates=3):
    return TrainingWindows(
        [draw_series()], steps=STEPS, horizon=HORIZON, least=WARM_UP + HORIZON + 1, batch_size=4,
        updates=updates, channel_dropout=0.3, seed=seed,
    )  # fmt: skip


def make_validation(length=60):
    return validation_batches([draw_series(1, length)], steps=STEPS, horizon=HORIZON, least=6, batch_size=2)


def make_trainer(seed=0, **values):
    torch.manual_seed(seed)
    model = StackedLSTM(2, hidden_units=6, num_layers=2, horizon=HORIZON, dropout=0.3)
    return Trainer(model, TrainingConfig(**{"learning_rate": 0.01, "lr_patience": 0} | values), WARM_UP, "cpu")


def weights_of(trainer):
    return copy.deepcopy(trainer.model.state_dict())


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def losses_of(trainer):
    keys = ("epoch", "train_loss", "val_loss", "learning_rate")
    return [tuple(row[key] for key in keys) for row in trainer.progress.history]


# ---- the loss -------------------------------------------------------------------------------


def naive_loss(forecast, series, warm_up):
    """Return the loss by going over every lead, channel, window and step."""
    batch, steps, horizon, channels = forecast.shape
    logs = []
    for h in range(horizon):
        for c in range(channels):
            errors = []
            for b in range(batch):
                for t in range(warm_up, steps):
                    target = float(series[b, t + 1 + h, c])
                    if math.isfinite(target):
                        off = abs(float(forecast[b, t, h, c]) - target)
                        errors.append(off**2 / 2 if off < 1 else off - 0.5)
            if errors:
                logs.append(math.log(sum(errors) / len(errors) + LOSS_FLOOR))
    return sum(logs) / len(logs) if logs else 0.0


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("warm_up", [0, 4])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_loss_is_that_of_a_slow_loop(horizon, warm_up, missing):
    random = torch.Generator().manual_seed(7)
    forecast = 2 * torch.randn(3, 9, horizon, 2, generator=random)
    series = torch.randn(3, 9 + horizon, 2, generator=random)
    series[torch.rand(series.shape, generator=random) < missing] = NAN
    expected = naive_loss(forecast, series, warm_up)
    assert forecast_loss(forecast, series, warm_up).item() == pytest.approx(expected, abs=1e-5)


def test_loss_of_a_channel_without_values_is_that_of_the_other():
    random = torch.Generator().manual_seed(7)
    forecast, series = torch.randn(2, 9, 3, 2, generator=random), torch.randn(2, 12, 2, generator=random)
    series[:, :, 1] = NAN
    alone = forecast_loss(forecast[..., :1], series[..., :1], 2)
    assert torch.equal(forecast_loss(forecast, series, 2), alone)
    assert forecast_loss(forecast, torch.full_like(series, NAN), 2).item() == 0.0


def test_a_perfect_forecast_reaches_the_loss_floor_a_shifted_one_does_not():
    series = torch.randn(2, 15, 2, generator=torch.Generator().manual_seed(7))
    perfect = torch.stack([series[:, 1 + h : 13 + h] for h in range(3)], dim=2)            # (B, T, H, C)
    assert forecast_loss(perfect, series, 2).item() == pytest.approx(math.log(LOSS_FLOOR), abs=1e-4)
    for shifted in (perfect.roll(1, dims=1), perfect.roll(1, dims=2), perfect.flip(3)):
        assert forecast_loss(shifted, series, 2).item() > math.log(LOSS_FLOOR) + 3


def test_missing_targets_and_the_warm_up_get_no_gradient():
    random = torch.Generator().manual_seed(7)
    forecast, series = torch.randn(1, 9, 3, 2, generator=random), torch.randn(1, 12, 2, generator=random)
    series[0, 6, 0], series[0, 7, 1] = NAN, float("inf")
    forecast.requires_grad_()
    forecast_loss(forecast, series, 2).backward()
    without = torch.zeros_like(forecast, dtype=torch.bool)
    without[0, :2] = True
    for h in range(3):
        without[0, 6 - 1 - h, h, 0] = without[0, 7 - 1 - h, h, 1] = True
    assert torch.equal(forecast.grad == 0, without)
    assert torch.isfinite(forecast.grad).all()


# ---- early stopping -------------------------------------------------------------------------


def fit_scripted(losses, **values):
    """Fit with scripted validation losses; return the trainer and the weights after each epoch."""
    trainer, script, after = make_trainer(**values), iter(losses), []
    trainer.validate = lambda batches: next(script)
    trainer.fit(make_windows(), [], lambda trainer: after.append(weights_of(trainer)))
    return trainer, after


def test_patience_stops_and_the_best_weights_are_restored():
    trainer, after = fit_scripted([3.0, 2.0, 1.0, 1.5, 1.0, 1.2, 0.1], epochs=50, patience=3)
    progress = trainer.progress
    assert (progress.epoch, progress.best_epoch, progress.best_loss) == (6, 2, 1.0)       # a tie is not better
    assert [row["epoch"] for row in progress.history] == list(range(6))
    assert_same_weights(trainer.model.state_dict(), after[2])
    assert any(not torch.equal(after[2][name], after[5][name]) for name in after[2])


def test_epochs_are_the_most_that_are_trained():
    trainer, after = fit_scripted([3.0, 2.0, 1.0, 0.5, 0.4], epochs=4, patience=10)
    assert trainer.progress.epoch == len(after) == 4 and trainer.progress.finished
    assert_same_weights(trainer.model.state_dict(), after[3])


def test_the_learning_rate_falls_on_a_plateau_or_along_a_cosine():
    trainer, _ = fit_scripted([1.0, 2.0, 2.0, 2.0], epochs=4, schedule="plateau", lr_patience=1, lr_factor=0.5)
    assert [row["learning_rate"] for row in trainer.progress.history] == [0.01, 0.01, 0.01, 0.005]
    trainer, _ = fit_scripted([1.0, 2.0, 2.0, 2.0], epochs=4, schedule="cosine")
    expected = [0.01 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [row["learning_rate"] for row in trainer.progress.history] == pytest.approx(expected)


def test_training_lowers_the_loss():
    trainer = make_trainer(epochs=15, learning_rate=0.03)
    trainer.fit(make_windows(updates=8), make_validation())
    history = trainer.progress.history
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.3
    assert trainer.progress.best_loss == min(row["val_loss"] for row in history)


# ---- the same again -------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_and_resumed_training_ends_as_if_undisturbed(tmp_path, stop_after, schedule):
    undisturbed = make_trainer(epochs=5, schedule=schedule)
    undisturbed.fit(make_windows(), make_validation())

    windows, path = make_windows(), tmp_path / "state.pt"

    def save_then_stop(trainer):
        torch.save(trainer.state_dict(windows), path)
        if trainer.progress.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(epochs=5, schedule=schedule).fit(windows, make_validation(), save_then_stop)

    resumed, windows = make_trainer(seed=99, epochs=5, schedule=schedule), make_windows(seed=99)
    resumed.load_state_dict(torch.load(path, weights_only=True), windows)
    assert resumed.progress.epoch == stop_after
    resumed.fit(windows, make_validation())
    assert_same_weights(resumed.model.state_dict(), undisturbed.model.state_dict())
    assert losses_of(resumed) == losses_of(undisturbed)


def test_validation_does_not_disturb_training():
    undisturbed, windows = make_trainer(epochs=3), make_windows()
    undisturbed.fit(windows, make_validation())

    disturbed, others = make_trainer(epochs=3), make_windows()
    disturbed.fit(others, make_validation(), lambda trainer: [trainer.validate(make_validation(150)) for _ in range(3)])
    assert losses_of(disturbed) == losses_of(undisturbed)
    assert torch.equal(windows.generator.get_state(), others.generator.get_state())


def test_validation_changes_no_weight_and_is_the_mean_over_windows():
    trainer, batches = make_trainer(), make_validation(64)
    sizes = [len(x) for x, _ in batches]
    assert len(set(sizes)) > 1                                   # the last batch is smaller
    before = weights_of(trainer)
    loss = trainer.validate(batches)
    assert_same_weights(before, trainer.model.state_dict())
    each = [forecast_loss(trainer.model(x)[0], series, WARM_UP).item() for x, series in batches]
    assert loss == pytest.approx(np.average(each, weights=sizes), abs=1e-6)


@pytest.mark.parametrize("broken", [NAN, float("inf")])
def test_a_loss_that_is_not_finite_stops_with_a_hint(broken):
    trainer = make_trainer(epochs=3)
    with torch.no_grad():
        trainer.model.head.bias.fill_(broken)
    with pytest.raises(DataError, match=r"epoch 0: loss is not finite .*training\.learning_rate"):
        trainer.fit(make_windows(), make_validation())
    assert trainer.progress.history == []


def test_naive_forecasts_by_hand():
    series = torch.tensor([[[1.0], [3.0], [NAN], [2.0], [2.0]]])     # (1, T + H, 1), H = 1
    losses = naive_losses([(series[:, :-1], series)], horizon=1, warm_up=0)
    off_last, off_mean = [1.5, 0.5, 0.0], [2.5, 1.5, 1.5]            # Huber of 2, 1, 0; of 3, 2, 2; one is missing
    assert losses["last_value"] == pytest.approx(math.log(sum(off_last) / 3 + LOSS_FLOOR), abs=1e-6)
    assert losses["mean"] == pytest.approx(math.log(sum(off_mean) / 3 + LOSS_FLOOR), abs=1e-6)


@pytest.mark.parametrize(("batch_size", "hint"), [(4, "--set training.batch_size=2"), (1, "fewer model.hidden_units")])
def test_a_gpu_without_enough_memory_is_one_line_with_a_hint(batch_size, hint, monkeypatch):
    trainer, windows = make_trainer(epochs=2), make_windows()
    windows.batch_size = batch_size

    def out_of_memory(x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(trainer.model, "forward", out_of_memory)
    with pytest.raises(DataError, match=rf"^training\.batch_size {batch_size} does not fit .*; try {hint}$"):
        trainer.fit(windows, make_validation())


def test_an_epoch_synchronises_with_the_device_only_at_its_end(monkeypatch):
    trainer, callers, original = make_trainer(epochs=1), [], torch.Tensor.item

    def item(tensor):
        callers.append(sys._getframe(1).f_globals["__name__"])
        return original(tensor)

    monkeypatch.setattr(torch.Tensor, "item", item)
    trainer.fit(make_windows(updates=5), make_validation(150))
    assert callers.count("trainers") == 2                             # the losses of training and of validation
    assert {name for name in callers if not name.startswith("torch.optim")} == {"trainers"}     # Adam counts on the CPU


def test_batches_on_a_device_are_views_of_one_series():
    for x, series in on_device(make_validation(), "meta"):
        assert x.device.type == series.device.type == "meta"
        assert x.shape == (len(series), STEPS, 2) and x.untyped_storage().nbytes() == series.untyped_storage().nbytes()


# ---- several processes ----------------------------------------------------------------------


def train_and_save(folder):
    """Train for two epochs, alone or in the group that the environment names; save this process's weights."""
    torch.set_num_threads(1)
    with process_group("cpu") as rank:
        trainer = make_trainer(epochs=2)
        trainer.model.lstm.dropout = 0.0                             # each process would draw its own
        trainer.fit(make_windows(updates=5), make_validation())
        torch.save(trainer.model.state_dict(), folder / f"rank{rank}.pt")
        return losses_of(trainer)


def test_two_processes_train_the_weights_of_one(tmp_path):
    expected = train_and_save(tmp_path)
    alone = torch.load(tmp_path / "rank0.pt")
    (tmp_path / "rank0.pt").unlink()
    path = [str(ROOT / part) for part in ("", "tests", "tests/helpers")]
    code = f"import pathlib, sys\nsys.path[:0] = {path}\nimport test_trainers\n"
    code += f"test_trainers.train_and_save(pathlib.Path({str(tmp_path)!r}))"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        warm.Popen([sys.executable, "-c", code], env=os.environ | group | {"RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert_same_weights(first, second)
    for name, weights in alone.items():
        torch.testing.assert_close(first[name], weights, rtol=0, atol=1e-5)
    assert len(expected) == 2


def test_a_batch_smaller_than_the_group_is_one_line():
    trainer = make_trainer()
    trainer.processes = 8
    with pytest.raises(DataError, match=r"^training\.batch_size is 4; expected at least 8, one a process$"):
        trainer.fit(make_windows(), make_validation())
