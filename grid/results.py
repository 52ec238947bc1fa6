"""From the journal of a grid search to tables, a ranking, the winner's config and figures.

Ranked by the validation loss, or, where the losses of a grid are averages over different things, by the
forecast skill on validation data. What the test split says is written down and never ranked by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from grid.plan import PlannedRun, loss_differs_by, show, training_differs
from utils import atomic_path, write_json

BETTER = {"val_loss": -1.0, "val_skill": 1.0, "calibration_events_per_hour": -1.0}    # sign of what is better
NOT_METRICS = ("key", "until", "status", "error", "seconds", "rule")
MOST_ROWS, MOST_CURVES = 30, 200                                                      # in a figure


@dataclass(frozen=True)
class Standing:
    """A config of the grid over its seeds."""

    number: int
    values: dict[str, Any]
    status: str                                                  # finished if all of its runs are
    rows: list[dict[str, Any]]                                   # one a seed

    def numbers(self, measure: str) -> np.ndarray:
        """Return the values of a metric over the seeds that have it."""
        known = [row[measure] for row in self.rows if row.get(measure) is not None]
        return np.array(known, float)

    def mean(self, measure: str) -> float:
        numbers = self.numbers(measure)
        return float(numbers.mean()) if len(numbers) else float("nan")

    def std(self, measure: str) -> float:
        numbers = self.numbers(measure)
        return float(numbers.std()) if len(numbers) else float("nan")


# ---- tables ---------------------------------------------------------------------------------


def criterion_of(runs: Sequence[PlannedRun]) -> str:
    """Return the metric that ranks a grid: the loss if it means the same in all runs, else the skill."""
    return "val_skill" if loss_differs_by(runs) else "val_loss"


def rows_of(runs: Sequence[PlannedRun], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is known of each run: its last record over the ones before, seconds added up."""
    by_key: dict[str, list[Mapping[str, Any]]] = {run.key: [] for run in runs}
    for record in records:
        if record["key"] in by_key:
            by_key[record["key"]].append(record)
    rows = []
    for run in runs:
        row: dict[str, Any] = {"status": "missing"}
        for record in by_key[run.key]:
            if record["status"] == "failed":
                row = {"seconds": row.get("seconds", 0.0)}       # a failed run has no numbers
            seconds = row.get("seconds", 0.0) + (record.get("seconds") or 0.0)
            row = {k: v for k, v in row.items() if k != "error"} | record | {"seconds": seconds}
        rows.append(row | {"key": run.key, "seed": run.seed})
    return rows


def standings_of(runs: Sequence[PlannedRun], rows: Sequence[dict[str, Any]], criterion: str) -> list[Standing]:
    """Return the configs, the best first; those that did not finish come behind, the furthest first."""
    standings = []
    for number in dict.fromkeys(run.number for run in runs):
        mine = [k for k, run in enumerate(runs) if run.number == number]
        states = {rows[k]["status"] for k in mine}
        worst = next(s for s in ("failed", "missing", "paused", "stopped", "finished") if s in states)
        standings.append(Standing(number, runs[mine[0]].values, worst, [rows[k] for k in mine]))
    order = ("finished", "stopped", "paused", "missing", "failed")
    measures = [criterion, *(name for name in BETTER if name != criterion)]

    def place(standing: Standing) -> tuple:
        worths = [-BETTER[name] * standing.mean(name) for name in measures]
        reached = 0.0 if standing.status == "finished" else -standing.mean("epochs")
        return order.index(standing.status), *(np.nan_to_num([reached, *worths], nan=np.inf)), standing.number

    return sorted(standings, key=place)


def write_tables(
    out: Path, runs: Sequence[PlannedRun], rows: Sequence[dict[str, Any]], standings: Sequence[Standing]
) -> None:
    """Write grid_results.csv, one row a run, and grid_summary.csv, one row a config, the best first."""
    metrics = metric_names(rows)
    results = [
        {"run": run.key[:12]}
        | cells(run.values)
        | {name: _no_formula(row.get(name)) for name in ("seed", "status", "error", "rule", *metrics, "seconds")}
        for run, row in zip(runs, rows, strict=True)
    ]
    write_table(out / "grid_results.csv", results)
    by_skill = sorted(
        (s for s in standings if s.status == "finished"), key=lambda s: -np.nan_to_num(s.mean("val_skill"), nan=-np.inf)
    )
    summary = []
    for rank, standing in enumerate(standings, 1):
        finished = standing.status == "finished"
        states = [row["status"] for row in standing.rows]
        line: dict[str, Any] = {"rank": rank if finished else None}
        line["rank_by_skill"] = by_skill.index(standing) + 1 if finished else None
        line |= cells(standing.values) | {"status": standing.status, "seeds": len(states)}
        line |= {f"{name}_runs": states.count(name) for name in ("finished", "stopped", "failed")}
        for name in (*metrics, "seconds"):
            line |= {f"{name}_mean": standing.mean(name), f"{name}_std": standing.std(name)}
        summary.append(line)
    write_table(out / "grid_summary.csv", summary)


def metric_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the metrics that any run has; those of the test split last."""
    first = ["best_epoch", "epochs", *BETTER]
    others = {name for row in rows for name in row} - {*first, *NOT_METRICS, "seed"}
    return [*first, *sorted(others, key=lambda name: (name.startswith("test_recall"), name))]


def cells(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a permutation as cells of a table: lists and objects as JSON."""
    plain = (int, float, str)
    texts = {key: value if isinstance(value, plain) else json.dumps(value) for key, value in values.items()}
    return {key: _no_formula(value) for key, value in texts.items()}


def _no_formula(cell: Any) -> Any:
    """Return a cell of a table that is only looked at; a text that a spreadsheet would evaluate gets an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(list(rows)).to_csv(temporary, index=False, float_format="%.8g")


# ---- the winner -----------------------------------------------------------------------------


def verdict(runs: Sequence[PlannedRun], standings: Sequence[Standing], criterion: str) -> str:
    """Return which config to take and how sure that is, in a sentence or two."""
    finished = [standing for standing in standings if standing.status == "finished"]
    if not finished:
        return "no config finished all of its runs: nothing to recommend"
    best = f"best by {NAMES[criterion]}: {show(finished[0].values)}"
    if len(finished) == 1:
        return f"{best} (the only config that finished; how far the others came is in grid_summary.csv)"
    if not training_differs(runs):
        return (
            "this grid varies nothing that is trained, and only labels could say which threshold, score or events "
            f"are better; first by false alarms on calibration data, as a guide: {show(finished[0].values)}"
        )
    return f"{best}; {lead_of(finished[0], finished[1], criterion)}"


NAMES = {"val_loss": "validation loss", "val_skill": "forecast skill on validation data"}


def lead_of(first: Standing, second: Standing, criterion: str) -> str:
    """Return how far the first is ahead of the second, over the seeds that both have."""
    pairs = [{row["seed"]: row.get(criterion) for row in standing.rows} for standing in (first, second)]
    leads = np.array([BETTER[criterion] * (pairs[0][seed] - pairs[1][seed]) for seed in pairs[0]
                      if pairs[0][seed] is not None and pairs[1].get(seed) is not None], float)  # fmt: skip
    if len(leads) == 0:
        return "not comparable with the second"
    text = f"ahead of the second ({show(second.values)}) by {leads.mean():.4g}"
    if len(leads) == 1:
        return f"{text} with one seed: how sure that is cannot be said, run --seeds 3"
    half = stats.t.ppf(0.975, len(leads) - 1) * leads.std(ddof=1) / np.sqrt(len(leads))
    word = "clear" if leads.mean() > half else "within chance: take either, or run more seeds"
    interval = f"95 % interval {leads.mean() - half:.2g} to {leads.mean() + half:.2g}"
    return f"{text} ({interval}, paired over {len(leads)} seeds): {word}"


def write_best(out: Path, runs: Sequence[PlannedRun], standings: Sequence[Standing]) -> bool:
    """Write the winner's config as best_config.json, with the first seed; return whether there is one."""
    if standings[0].status != "finished":
        (out / "best_config.json").unlink(missing_ok=True)
        return False
    run = next(run for run in runs if run.number == standings[0].number)
    write_json(out / "best_config.json", run.config.model_dump(exclude={"grid"}))
    return True


def ranking_table(standings: Sequence[Standing], most: int = 5) -> str:
    """Return the first configs as a Markdown table."""
    keys = list(standings[0].values)
    titles = [*keys, "seeds", "validation loss", "forecast skill", "calibration events/h", "status"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for standing in standings[:most]:
        numbers = [with_spread(standing.numbers(name)) for name in BETTER]
        values = [str(value) for value in cells(standing.values).values()]
        lines.append(f"| {' | '.join([*values, str(len(standing.rows)), *numbers, standing.status])} |")
    if len(standings) > most:
        lines.append(f"({len(standings) - most} more in grid_summary.csv)")
    return "\n".join(lines)


def with_spread(numbers: np.ndarray) -> str:
    """Return mean ± std; the mean alone of a single number."""
    spread = f" ± {numbers.std():.4f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.4f}{spread}" if len(numbers) else "-"


# ---- figures --------------------------------------------------------------------------------


def draw(
    out: Path,
    runs: Sequence[PlannedRun],
    rows: Sequence[dict[str, Any]],
    standings: Sequence[Standing],
    criterion: str,
    first_rung: Mapping[str, Mapping[str, Any]],
    note: str,
) -> None:
    """Draw each parameter's effect, the ranking, and the training curves.

    Args:
        first_rung: with --halving, each run's record at the first rung, which all of them reached: later
            numbers of those that went on cannot be compared with earlier ones of those that were stopped.
    """
    from reports import plots

    folder, measure = out / "plots", NAMES[criterion]
    folder.mkdir(exist_ok=True)
    seen = [first_rung.get(run.key, {} if first_rung else row) for run, row in zip(runs, rows, strict=True)]
    effects = {}
    for key in runs[0].values:
        texts = dict.fromkeys(json.dumps(run.values[key]) for run in runs)
        effects[key] = [
            (text, np.array([s[criterion] for run, s in zip(runs, seen, strict=True)
                             if json.dumps(run.values[key]) == text and s.get(criterion) is not None], float))
            for text in texts
        ]  # fmt: skip
    varied = {key: several for key, several in effects.items() if len(several) > 1}
    when = " at the first rung" if first_rung else ""
    short = "skill" if criterion == "val_skill" else "val. loss"
    plots.save(plots.plot_grid_effects(varied, short, f"Effect on the {measure}{when}", note), folder / "effects.png")
    finished = [standing for standing in standings if standing.status == "finished"]
    ranked = [(show_short(s.values), s.mean(criterion), s.std(criterion)) for s in finished[:MOST_ROWS]]
    title = f"The best {len(ranked)} of {len(standings)} configs, by {measure}"
    plots.save(plots.plot_grid_ranking(ranked, short, title, note), folder / "ranking.png")
    plots.save(draw_curves(out, runs, standings, note), folder / "curves.png")


def draw_curves(out: Path, runs: Sequence[PlannedRun], standings: Sequence[Standing], note: str) -> Any:
    """Return a figure of the training curves of the best configs, or of all if they are few."""
    from reports import plots

    keys = [row["key"] for standing in standings for row in standing.rows][:MOST_CURVES]
    winner = {row["key"] for row in standings[0].rows} if standings[0].status == "finished" else set()
    curves, best = [], []
    for key in keys:
        path = run_folder(out, key) / "history.csv"
        if path.is_file():
            history = pd.read_csv(path)
            best += [len(curves)] if key in winner else []
            curves.append((history["epoch"].to_numpy(float), history["val_loss"].to_numpy(float)))
    differs = loss_differs_by(runs)
    title = "Validation loss of each run" + (f" (not comparable: {', '.join(differs)} vary)" if differs else "")
    return plots.plot_grid_curves(curves, best, "val. loss", title, note)


def show_short(values: Mapping[str, Any]) -> str:
    """Return a permutation with the last part of each key only."""
    return show({key.rpartition(".")[2]: value for key, value in values.items()})


def run_folder(out: Path, key: str) -> Path:
    """Return the folder of a run of a grid."""
    return out / "runs" / key[:12]
