"""From the records of a grid search to tables, a ranking, the winner's config, a verdict and figures.

Ranked by the validation loss, or, where the losses of a grid are averages over different things, by the
forecast skill on validation data. Measures on the test split are written down and never ranked by.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from grid.plan import GridPlan, loss_differs_by, show, training_differs
from reports.tables import markdown
from utils import atomic_path, write_json

BETTER = {"val_loss": -1.0, "val_skill": 1.0, "calibration_events_per_hour": -1.0}    # sign of what is better
NAMES = {"val_loss": "validation loss", "val_skill": "forecast skill on validation data"}
SHORT_NAMES = {"val_loss": "val. loss", "val_skill": "skill"}
NOT_MEASURES = {"key", "until", "status", "error", "rule", "seconds"}                 # of a record
STATUSES = ("finished", "stopped", "paused", "missing", "failed")                     # the best first
MOST_ROWS, MOST_CURVES = 30, 200                                                      # in a figure


@dataclass(frozen=True)
class GridResults:
    """A grid and the records of its journal, oldest first; all else follows from them."""

    grid: GridPlan
    records: Sequence[Mapping[str, Any]]

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """A row a run, in the grid's order: its last record over the ones before, seconds added up."""
        rows: dict[str, dict[str, Any]] = {run.key: {"status": "missing"} for run in self.grid.runs}
        for record in self.records:
            if record["key"] in rows:
                row = rows[record["key"]]
                seconds = row.get("seconds", 0.0) + (record.get("seconds") or 0.0)
                if record["status"] == "failed":
                    row = {}                                     # a failed run has no numbers
                row.pop("error", None)
                rows[record["key"]] = row | record | {"seconds": seconds}
        about = [{"number": run.number, "run": run.key[:12], "seed": run.seed} for run in self.grid.runs]
        columns = [*about[0], "status", "error", "rule", *self.measures, "seconds"]
        frame = pd.DataFrame([one | row for one, row in zip(about, rows.values(), strict=True)], columns=columns)
        return frame.astype(dict.fromkeys([*self.measures, "seconds"], float))

    @functools.cached_property
    def measures(self) -> list[str]:
        """The measures that any run has; those of the test split last."""
        first = ["best_epoch", "epochs", *BETTER]
        others = {name for record in self.records for name in record} - {*first, *NOT_MEASURES}
        return [*first, *sorted(others, key=lambda name: (name.startswith("test_recall"), name))]

    @functools.cached_property
    def configs(self) -> pd.DataFrame:
        """A row a config, the best first; those that did not finish come after, the furthest first."""
        groups = self.runs.groupby("number")
        status = groups["status"].agg(lambda several: max(several, key=STATUSES.index))
        columns = {"status": status, "seeds": groups.size()}
        for name in ("finished", "stopped", "failed"):
            columns[f"{name}_runs"] = (self.runs["status"] == name).groupby(self.runs["number"]).sum()
        for name in (*self.measures, "seconds"):
            columns |= {f"{name}_mean": groups[name].mean(), f"{name}_std": groups[name].std(ddof=0)}
        table, done = pd.DataFrame(columns), status == "finished"
        place = pd.DataFrame({"status": status.map(STATUSES.index), "epochs": -table["epochs_mean"].where(~done, 0)})
        for name in sorted(BETTER, key=lambda name: name != self.grid.criterion):
            place[name] = -BETTER[name] * table[f"{name}_mean"]
        table = table.loc[place.sort_values(list(place), kind="stable").index]
        by_skill = table["val_skill_mean"][done].rank(ascending=False, method="first", na_option="bottom")
        table.insert(0, "rank", np.where(table["status"] == "finished", np.arange(len(table)) + 1, np.nan))
        table.insert(1, "rank_by_skill", by_skill)
        return table

    @property
    def finished(self) -> list[int]:
        """The numbers of the configs that finished all of their runs, the best first."""
        return list(self.configs.index[self.configs["status"] == "finished"])

    @property
    def errors(self) -> list[str]:
        """The errors of the runs that failed."""
        return list(self.runs["error"][self.runs["status"] == "failed"])

    def values(self, number: int) -> dict[str, Any]:
        """Return a config as what it has of the grid's lists."""
        return self.grid.runs[number * len(self.grid.seeds)].values

    def over_seeds(self, number: int, measure: str) -> np.ndarray:
        """Return a measure of a config, (seeds,); NaN where a run has none."""
        return self.runs[measure].to_numpy()[self.runs["number"] == number]


def records_at(grid: GridPlan, records: Sequence[Mapping[str, Any]], rung: float) -> dict[str, Mapping[str, Any]]:
    """Return each run's record at a rung by its key: paused there, or finished before it."""
    found: dict[str, Mapping[str, Any]] = {}
    untils = {run.key: run.pause_after(rung) for run in grid.runs}
    for record in records:
        here = record["until"] == untils.get(record["key"]) and record["status"] in ("paused", "finished")
        if here or (record["status"] == "finished" and record["key"] not in found):
            found[record["key"]] = record
    return found


# ---- files ----------------------------------------------------------------------------------


def write_results(results: GridResults, out: Path) -> None:
    """Write tables, figures, and the winner's config, with the first seed, if there is a winner."""
    write_tables(results, out)
    (out / "best_config.json").unlink(missing_ok=True)
    if results.finished:
        best = results.grid.runs[results.finished[0] * len(results.grid.seeds)]
        write_json(out / "best_config.json", best.config.model_dump(exclude={"grid"}))
    draw(results, out)


def write_tables(results: GridResults, out: Path) -> None:
    """Write grid_results.csv, one row a run, and grid_summary.csv, one row a config, the best first."""
    for name, table, first in (("grid_results", results.runs, ["run"]),
                               ("grid_summary", results.configs.reset_index(), ["rank", "rank_by_skill"])):  # fmt: skip
        values = pd.DataFrame([cells(results.values(number)) for number in table["number"]])
        table = pd.concat([table[first], values, table.drop(columns=[*first, "number"])], axis=1)
        with atomic_path(out / f"{name}.csv") as temporary:
            table.map(_no_formula).to_csv(temporary, index=False, float_format="%.8g")


def cells(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a permutation as cells of a table: lists and objects as JSON."""
    plain = (int, float, str)
    texts = {key: value if isinstance(value, plain) else json.dumps(value) for key, value in values.items()}
    return {key: _no_formula(value) for key, value in texts.items()}


def _no_formula(cell: Any) -> Any:
    """Return a cell of a table that is only looked at; a text that a spreadsheet would evaluate gets an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


# ---- words ----------------------------------------------------------------------------------


def summary_text(results: GridResults, out: Path) -> str:
    """Return which config to take, why, and how sure that is, to be printed."""
    parts, errors = [ranking_table(results), ""], results.errors
    if results.grid.criterion == "val_skill":
        keys = ", ".join(loss_differs_by(results.grid.runs))
        parts += [f"ranked by forecast skill: the grid varies {keys}, so the losses cannot be compared", ""]
    if errors:
        parts += [f"failed runs: {len(errors)} of {len(results.runs)}; the first: {errors[0]}", ""]
    parts.append(verdict(results))
    if results.finished:
        parts.append(f"python pure_lstm_anomaly_detection_main.py --config {out / 'best_config.json'}")
    return "\n".join([*parts, "", str(out)])


def ranking_table(results: GridResults, most: int = 5) -> str:
    """Return the first configs as a Markdown table; measures as mean ± std over seeds."""
    configs = results.configs
    titles = [*results.values(0), "seeds", "validation loss", "forecast skill", "calibration events/h", "status"]
    table = [titles]
    for number, config in configs[:most].iterrows():
        row = [*map(str, cells(results.values(number)).values()), str(config["seeds"])]
        for name in BETTER:
            count = np.isfinite(results.over_seeds(number, name)).sum()
            spread = f" ± {config[f'{name}_std']:.4f}" if count > 1 else ""
            row.append(f"{config[f'{name}_mean']:.4f}{spread}" if count else "-")
        table.append([*row, config["status"]])
    more = f"\n({len(configs) - most} more in grid_summary.csv)" if len(configs) > most else ""
    return markdown(table) + more


def verdict(results: GridResults) -> str:
    """Return which config to take and how sure that is, in a sentence or two."""
    if not results.finished:
        return "no config finished all of its runs: nothing to recommend"
    first, criterion = results.finished[0], results.grid.criterion
    best = f"best by {NAMES[criterion]}: {show(results.values(first))}"
    if len(results.finished) == 1:
        return f"{best} (the only config that finished; the others are in grid_summary.csv)"
    if not training_differs(results.grid.runs):
        return (
            "the grid varies nothing that is trained; only labels could tell which threshold, score or event rule is "
            f"better. First by false alarms on calibration data, as a guide: {show(results.values(first))}"
        )
    return f"{best}; {lead_of(results, first, results.finished[1])}"


def lead_of(results: GridResults, first: int, second: int) -> str:
    """Return how far a config is ahead of another, over the seeds that both have."""
    criterion = results.grid.criterion
    leads = BETTER[criterion] * (results.over_seeds(first, criterion) - results.over_seeds(second, criterion))
    leads = leads[np.isfinite(leads)]
    if len(leads) == 0:
        return "not comparable with the second"
    text = f"ahead of the second ({show(results.values(second))}) by {leads.mean():.4g}"
    if len(leads) == 1:
        return f"{text} with one seed, which cannot tell a difference from chance: use --seeds 3"
    half = stats.t.ppf(0.975, len(leads) - 1) * leads.std(ddof=1) / np.sqrt(len(leads))
    word = "clear" if leads.mean() > half else "within chance: take either, or run more seeds"
    interval = f"95 % interval {leads.mean() - half:.2g} to {leads.mean() + half:.2g}"
    return f"{text} ({interval}, paired over {len(leads)} seeds): {word}"


# ---- figures --------------------------------------------------------------------------------


def draw(results: GridResults, out: Path) -> None:
    """Draw each parameter's effect, the ranking, and the training curves of the best configs."""
    from reports import plots

    grid, short = results.grid, SHORT_NAMES[results.grid.criterion]
    measure, note = NAMES[grid.criterion], "simulated data" if grid.meta.simulated else ""
    when = " at the first rung" if grid.rungs else ""
    effects = plots.plot_grid_effects(effects_of(results), short, f"Effect on the {measure}{when}", note)
    ranked = [
        (show({key.rpartition(".")[2]: value for key, value in results.values(number).items()}),
         *results.configs.loc[number, [f"{grid.criterion}_mean", f"{grid.criterion}_std"]])
        for number in results.finished[:MOST_ROWS]
    ]  # fmt: skip
    title = f"Finished configs by {measure}" + f": the best {MOST_ROWS}" * (len(results.finished) > MOST_ROWS)
    ranking = plots.plot_grid_ranking(ranked, short, title, note)
    differs = loss_differs_by(grid.runs)
    title = "Validation loss of each run" + (f" (not comparable: {', '.join(differs)} vary)" if differs else "")
    curves = plots.plot_grid_curves(*curves_of(results, out), SHORT_NAMES["val_loss"], title, note)
    (out / "plots").mkdir(exist_ok=True)
    for name, figure in {"effects": effects, "ranking": ranking, "curves": curves}.items():
        plots.save(figure, out / "plots" / f"{name}.png")


def effects_of(results: GridResults) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Return the criterion's results for each value of each parameter that varies.

    With --halving they are those at the first rung, which all runs reached: later ones of runs that continued
    cannot be compared with earlier ones of runs that were stopped.
    """
    grid, numbers = results.grid, results.runs[results.grid.criterion].to_numpy()
    if grid.rungs:
        reached = records_at(grid, results.records, grid.rungs[0])
        numbers = np.array([reached.get(run.key, {}).get(grid.criterion) for run in grid.runs], float)
    effects = {}
    for key in results.values(0):
        texts = np.array([json.dumps(run.values[key]) for run in grid.runs])
        effects[key] = [(text, numbers[(texts == text) & np.isfinite(numbers)]) for text in dict.fromkeys(texts)]
    return {key: several for key, several in effects.items() if len(several) > 1}


def curves_of(results: GridResults, out: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int]]:
    """Return (epochs, validation losses) of the runs of the best configs, and which of them are of the winner."""
    curves, best = [], []
    ordered = results.runs.set_index("number").loc[results.configs.index, "run"]
    for number, run in list(ordered.items())[:MOST_CURVES]:
        path = out / "runs" / run / "history.csv"
        if path.is_file():
            history = pd.read_csv(path)
            best += [len(curves)] if number in results.finished[:1] else []
            curves.append((history["epoch"].to_numpy(float), history["val_loss"].to_numpy(float)))
    return curves, best
