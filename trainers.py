"""Fit the forecaster: dense supervision, early stopping with the best weights, resumable."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from config import TrainingConfig
from data_loader import TrainingWindows
from lstm_model import StackedLSTM
from utils import DataError

log = logging.getLogger(__name__)

LOSS_FLOOR = 1e-4                       # keeps a constant channel from dominating the loss

Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass
class Progress:
    """The progress of training, from which a later process resumes bit for bit."""

    epoch: int = 0                                               # epochs done
    best_epoch: int = -1
    best_loss: float = float("inf")
    best_model: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False

    @property
    def epochs_since_best(self) -> int:
        """Epochs without a better validation loss."""
        return self.epoch - 1 - self.best_epoch


def forecast_loss(
    forecast: Tensor, series: Tensor, warm_up: int, total: Callable[[Tensor], Tensor] = lambda part: part
) -> Tensor:
    """Return the mean over leads and channels of the log of their Huber loss.

    Each lead of each channel is weighted by its own size of error, as if its scale were fitted too
    (a profile likelihood): far leads do not dominate near ones, nor large channels small ones.

    Args:
        forecast: (B, T, H, C), from the steps of `series` but the last H.
        series: (B, T + H, C) scaled values; NaN = missing, left out.
        warm_up: first steps, whose forecasts are left out.
        total: turns sums over this process's part of a batch (H, C) into those over all processes.
    """
    horizon = forecast.shape[2]
    target = series.unfold(1, horizon, 1)[:, 1:].transpose(2, 3)             # (B, T, H, C), a view
    target, forecast = target[:, warm_up:], forecast[:, warm_up:]
    known = torch.isfinite(target)
    target = torch.where(known, target, forecast.detach())
    error = nn.functional.smooth_l1_loss(forecast, target, reduction="none")
    count = total(known.sum(dim=(0, 1)))                                     # (H, C)
    mean = total(error.sum(dim=(0, 1))) / count.clamp(min=1)
    weight = (count > 0).to(mean.dtype)
    return (torch.log(mean + LOSS_FLOOR) * weight).sum() / weight.sum().clamp(min=1)


def naive_losses(validation: Batches, horizon: int, warm_up: int) -> dict[str, float]:
    """Return the validation losses of two naive forecasts: the last value, and the training mean."""
    last, mean, windows = 0.0, 0.0, 0
    for x, series in validation:
        constant = _last_values(x).unsqueeze(2).expand(-1, -1, horizon, -1)         # (B, T, H, C)
        last += forecast_loss(constant, series, warm_up).item() * len(x)
        mean += forecast_loss(torch.zeros_like(constant), series, warm_up).item() * len(x)
        windows += len(x)
    return {"last_value": last / windows, "mean": mean / windows}


def _last_values(x: Tensor) -> Tensor:
    """Return x (B, T, C) with each missing value replaced by the one before it, or by the center, 0."""
    step = torch.arange(x.shape[1])[None, :, None].expand_as(x)
    newest = torch.where(torch.isfinite(x), step, 0).cummax(dim=1).values
    return torch.nan_to_num(x.gather(1, newest), nan=0.0)


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> LRScheduler:
    """Return the learning-rate schedule of a config, stepped once an epoch."""
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    return ReduceLROnPlateau(optimizer, factor=config.lr_factor, patience=config.lr_patience)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[int]:
    """Join the processes that torchrun started, one a GPU; give this one's rank, 0 where it is alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield 0
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def over_processes(part: Tensor) -> Tensor:
    """Return the sum over all processes; its gradient is that of this process's part alone."""
    whole = part.detach().clone()
    dist.all_reduce(whole)
    return part + (whole - part.detach())


def add_gradients(model: nn.Module) -> None:
    """Replace the gradients of a model by their sum over the processes, in one exchange."""
    gradients = [parameter.grad for parameter in model.parameters()]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(whole)
    for gradient, part in zip(gradients, whole.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def on_device(batches: Batches, device: str) -> Batches:
    """Return batches (x, series) on a device; x stays a view of its series."""
    if device == "cpu":
        return batches
    moved = [(series.to(device), x.shape[1]) for x, series in batches]
    return [(series[:, :steps], series) for series, steps in moved]


@contextlib.contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Turn a GPU that runs out of memory into one line that names the batch size to try."""
    try:
        yield
    except torch.OutOfMemoryError:
        hint = f"--set training.batch_size={batch_size // 2}" if batch_size > 1 else "fewer model.hidden_units"
        message = f"training.batch_size {batch_size} does not fit into the memory of the GPU; try {hint}"
        raise DataError(message) from None


@contextlib.contextmanager
def tensorboard(folder: Path | None, epoch: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Give what shows rows of the history in TensorBoard, from an epoch on; without a folder, nothing is shown."""
    if folder is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=epoch) as writer:

        def show(row: Mapping[str, float]) -> None:
            for name in ("train_loss", "val_loss", "learning_rate"):
                writer.add_scalar(name, row[name], int(row["epoch"]))
            writer.flush()

        yield show


class Trainer:
    """Owns model, optimizer, schedule and device; `fit` runs epochs until patience is exhausted.

    In a group of processes (see `process_group`) each takes a share of every batch's windows. All draw
    the same batches, and loss, gradients and weights are those of one process up to rounding.
    """

    def __init__(self, model: StackedLSTM, config: TrainingConfig, warm_up: int, device: str) -> None:
        self.model, self.config, self.warm_up, self.device = model.to(device), config, warm_up, device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.schedule = build_schedule(self.optimizer, config)
        self.progress = Progress()
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def fit(
        self,
        windows: TrainingWindows,
        validation: Batches,
        on_epoch: Callable[[Trainer], None] = lambda trainer: None,
        until: int | None = None,
    ) -> Progress:
        """Train until `patience` epochs in a row are no better; leave the best weights in the model.

        Args:
            on_epoch: called after each epoch, when `state_dict` can be saved.
            until: pause when so many epochs are done; None = train to the end.
        Raises: DataError with a hint if a loss is not finite, or the GPU's memory is not enough.
        """
        progress, epochs, size = self.progress, self.config.epochs, windows.batch_size
        if size < self.processes:
            raise DataError(f"training.batch_size is {size}; expected at least {self.processes}, one a process")
        with enough_memory(size):
            windows.to(self.device)
            validation = on_device(validation, self.device)
        bar = tqdm(total=epochs, initial=progress.epoch, desc="training", unit="epoch", disable=None)
        with bar:
            while not progress.finished and (until is None or progress.epoch < until):
                with enough_memory(size):
                    self._one_epoch(windows, validation)
                bar.update()
                row = progress.history[-1]
                bar.set_postfix_str(
                    f"train {row['train_loss']:.4f} val {row['val_loss']:.4f} best "
                    f"{progress.best_loss:.4f} at {progress.best_epoch}, "
                    f"{self._forecasts_per_epoch(windows) / row['seconds'] / 1e6:.1f} M forecasts/s"
                )
                on_epoch(self)
        self.model.load_state_dict(progress.best_model)
        return progress

    def _one_epoch(self, windows: TrainingWindows, validation: Batches) -> None:
        progress, began = self.progress, time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        train_loss = self._train(windows)
        val_loss = self.validate(validation)
        if not (train_loss < float("inf") and val_loss < float("inf")):
            raise DataError(
                f"epoch {progress.epoch}: loss is not finite (train {train_loss}, validation {val_loss}); "
                "try a lower training.learning_rate or training.clip_norm"
            )
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(val_loss)
        else:
            self.schedule.step()
        if val_loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = val_loss, progress.epoch
            progress.best_model = copy.deepcopy(self.model.state_dict())
        row = {"epoch": progress.epoch, "train_loss": train_loss, "val_loss": val_loss, "learning_rate": rate}
        progress.history.append(row | {"seconds": time.perf_counter() - began})
        progress.epoch += 1
        progress.finished = progress.epoch >= self.config.epochs or progress.epochs_since_best >= self.config.patience

    def _train(self, windows: TrainingWindows) -> float:
        """Update the model once per batch; return the mean loss per batch."""
        self.model.train()
        total = torch.zeros((), device=self.device)              # summed on the device: no synchronisation
        for x, series in windows:
            loss = self._loss(x[self.rank :: self.processes], series[self.rank :: self.processes], shared=True)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.processes > 1:
                add_gradients(self.model)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self.optimizer.step()
            total += loss.detach()
        return total.item() / len(windows)

    @torch.no_grad()
    def validate(self, batches: Batches) -> float:
        """Return the mean loss over fixed batches, each weighing by its windows."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)         # none here either
        for x, series in on_device(batches, self.device):
            total += self._loss(x, series).double() * len(x)
        if self.processes > 1:
            dist.broadcast(total, src=0)                                         # all stop after the same epoch
        return total.item() / sum(len(x) for x, _ in batches)

    def _loss(self, x: Tensor, series: Tensor, shared: bool = False) -> Tensor:
        bf16 = self.config.bf16 and self.device == "cuda"
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=bf16):
            forecast, _ = self.model(x)
        total = over_processes if shared and self.processes > 1 else lambda part: part
        return forecast_loss(forecast.float(), series, self.warm_up, total)

    def _forecasts_per_epoch(self, windows: TrainingWindows) -> int:
        """Return how many values are forecast in one epoch of training."""
        steps = windows.windows.shape[2] - windows.horizon - self.warm_up
        return len(windows) * windows.batch_size * steps * self.model.horizon * self.model.channels

    def state_dict(self, windows: TrainingWindows) -> dict[str, Any]:
        """Return tensors and plain values from which `load_state_dict` resumes bit for bit."""
        state = {
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "windows_generator": windows.generator.get_state(),
            "torch_random": torch.get_rng_state(),
        }
        if self.device == "cuda":
            state["cuda_random"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any], windows: TrainingWindows) -> None:
        """Resume from a state that `state_dict` returned."""
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        moments = {int(place): part for place, part in state["optimizer"]["state"].items()}     # JSON keys are strings
        self.optimizer.load_state_dict(state["optimizer"] | {"state": moments})
        self.schedule.load_state_dict(state["schedule"])
        windows.generator.set_state(state["windows_generator"])
        torch.set_rng_state(state["torch_random"])
        if self.device == "cuda" and "cuda_random" in state:
            torch.cuda.set_rng_state(state["cuda_random"])
