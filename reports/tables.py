"""Results in, tables out, as text: of detectors, respiratory events, nights, series; also as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter

import numpy as np
import pandas as pd

from evaluation.results import LSTM, Agreement, DetectorMetrics, Estimate, NightAgreement, NightSummary, RunMetrics

Table = list[list[str]]                     # cells as text, the header first


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    header, *rows = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([header, "|" + "---|" * len(table[0]), *rows])


def results_table(results: Sequence[RunMetrics]) -> str:
    """Return the results of one or more seeds in Markdown: at the deployed threshold, then over all thresholds."""
    tables = deployed_rows(results), free_response_rows(results), *respiratory_tables(results).values()
    return "\n\n".join(markdown(table) for table in tables if len(table) > 1)


def deployed_rows(results: Sequence[RunMetrics]) -> Table:
    """Return what was found at the deployed threshold, and what that cost, a row a kind or number."""
    detectors = _by_detector(results)
    table = [["at the deployed threshold", "events", *detectors]]
    first, *others = detectors.values()
    for kind, measures in first[0].kinds.items():
        cells = [_percent([one.kinds[kind].recall for one in seeds]) for seeds in detectors.values()]
        if kind in results[0].fault_kinds:
            cells = [f"{cells[0]} (signal loss)"] + ["(signal loss)"] * len(others)
        table.append([f"{kind}: found", str(measures.labelled), *cells])
    for title, number in (
        ("false events an hour", attrgetter("events.false_events_per_hour")),
        ("median delay, s", attrgetter("events.delay_median_s")),
        ("average precision", attrgetter("threshold_free.auc_pr")),
        ("VUS-PR", attrgetter("threshold_free.vus_pr")),
    ):
        table.append([title, "", *(_number([number(one) for one in seeds]) for seeds in detectors.values())])
    return table


def free_response_rows(results: Sequence[RunMetrics]) -> Table:
    """Return recall against false events an hour, a row a detector for all kinds together and for each of them."""
    first = results[0].detectors[LSTM]
    rates = [f"{rate:g}" for rate in first.free_response.false_events_per_hour]
    table = [["recall by false events an hour (thresholds read off the test span)", "events", *rates]]
    labelled = {kind: first.kinds[kind].labelled for kind in first.free_response.kinds}
    for kind, events in {"all kinds": sum(labelled.values()), **labelled}.items() if labelled else ():
        for name, seeds in _by_detector(results).items():
            curves = [one.free_response for one in seeds]
            recalls = zip(*(curve.kinds.get(kind, curve.recall) for curve in curves), strict=True)
            table.append([f"{kind}: {name}", str(events), *map(_percent, recalls)])
    return table


def respiratory_rows(results: Sequence[RunMetrics]) -> Table:
    """Return how respiratory events fit the labelled ones, one row; the header alone where none are labelled."""
    seeds = [result.respiratory for result in results if result.respiratory]
    table = [["respiratory events by profile", "labelled", "found", "F1 at IoU 0.2", "at 0.5", "onset error, s",
              "duration error, s", "AHI bias", "mean absolute error"]]  # fmt: skip
    if seeds:
        numbers = [
            _number([one.found for one in seeds], 0),
            *(_number([one.f1[least] for one in seeds]) for least in seeds[0].f1),
            *(_number([getattr(one, name) for one in seeds], 1) for name in
              ("onset_error_s", "duration_error_s", "ahi_bias", "ahi_mae")),
        ]  # fmt: skip
        table.append([seeds[0].profile, str(seeds[0].labelled), *numbers])
    return table


def respiratory_tables(results: Sequence[RunMetrics]) -> dict[str, Table]:
    """Return the tables of respiratory events against labels by their captions; one alone may be a header alone.

    What is said of single kinds and nights is said of one run; those of several seeds have pages of their own.
    """
    tables = {"respiratory events against the labelled ones": respiratory_rows(results)}
    seeds = [result.respiratory for result in results if result.respiratory]
    if agreements := [one.agreement for one in seeds if one.agreement]:
        tables["agreement over nights, with 95 % intervals"] = agreement_rows(agreements)
    if len(seeds) == 1:
        tables["labelled and found kinds, pairs at IoU 0.2"] = confusion_rows(seeds[0].kinds)
        if agreements:
            tables["labelled and found by night"] = night_agreement_rows(agreements[0].nights)
    return tables


def agreement_rows(agreements: Sequence[Agreement]) -> Table:
    """Return how nights agree with their labels, a row a seed."""
    table = [["agreement over nights (95 % intervals)", "nights", "AHI bias", "mean absolute error",
              "limits of agreement", "ICC(2,1)", "F1 at IoU 0.2"]]  # fmt: skip
    for number, one in enumerate(agreements, start=1):
        limits = " to ".join(f"{limit:.1f}" for limit in one.limits)
        table.append([
            f"run {number}" if len(agreements) > 1 else "found less labelled", str(len(one.nights)),
            _estimate(one.bias, 1), _estimate(one.mae, 1), limits, _estimate(one.icc, 2), _estimate(one.f1, 2),
        ])  # fmt: skip
    return table


def confusion_rows(kinds: Mapping[str, Mapping[str, int]]) -> Table:
    """Return labelled kinds against those they were found as, a row a labelled kind."""
    called = sorted({name for row in kinds.values() for name in row if name})
    header = ["labelled as, found as", *(name.replace("_", " ") for name in called), "not found"]
    rows = [[kind.replace("_", " "), *(str(row.get(name, 0)) for name in (*called, ""))] for kind, row in kinds.items()]
    return [header, *rows]


def night_agreement_rows(nights: Sequence[NightAgreement]) -> Table:
    """Return labelled and found events of each night, a row a night."""
    table = [["night", "labelled", "found", "paired", "AHI labelled", "AHI found", "F1 at IoU 0.2"]]
    for night in nights:
        counts = [str(count) for count in (night.labelled, night.found, night.paired)]
        rates = [_number([rate], 1) for rate in (night.labelled_ahi, night.found_ahi)]
        table.append([night.recording, *counts, *rates, _number([night.f1])])
    return table


def _estimate(one: Estimate, places: int) -> str:
    if math.isnan(one.value):
        return "-"
    interval = "" if math.isnan(one.low) else f" ({one.low:.{places}f} to {one.high:.{places}f})"
    return f"{one.value:.{places}f}{interval}"


NIGHT_NUMBERS = {                                # of a night, in tables that people read: name -> title, decimals
    "hours": ("hours", 2), "breathing_hours": ("with breathing", 2), "ahi": ("REI", 1), "ahi_low": ("from", 1),
    "ahi_high": ("to", 1), "central_index": ("central", 1), "obstructive_index": ("obstructive", 1),
    "mixed_index": ("mixed", 1), "unclassified_index": ("unclassified", 1), "hypopnea_index": ("hypopneas", 1),
    "longest_event_s": ("longest, s", 0), "periodic_percent": ("periodic, %", 0), "breaths_per_min": ("breaths/min", 1),
    "odi3": ("ODI3", 1), "odi4": ("ODI4", 1), "t90_percent": ("T90, %", 1), "mean_saturation": ("mean SpO2", 1),
    "lowest_saturation": ("lowest", 0), "hypoxic_burden": ("burden, %min/h", 1), "lost_percent": ("signal lost, %", 1),
    "sleep_hours": ("hours asleep", 2), "sleep_ahi": ("AHI asleep", 1), "rem_ahi": ("AHI in REM", 1),
    "nrem_ahi": ("AHI in NREM", 1),
}  # fmt: skip


def night_rows(nights: Sequence[NightSummary]) -> Table:
    """Return the nights in numbers, a row a night, without columns that no night has a number for."""
    titles, decimals = zip(*NIGHT_NUMBERS.values(), strict=True)
    numbers = np.array([[getattr(night, name) for name in NIGHT_NUMBERS] for night in nights], float)
    kept = [k for k in range(len(NIGHT_NUMBERS)) if np.isfinite(numbers[:, k]).any()]
    rows = [
        [night.recording, *("-" if math.isnan(row[k]) else f"{row[k]:.{decimals[k]}f}" for k in kept)]
        for night, row in zip(nights, numbers, strict=True)
    ]
    return [["night (indices an hour of breathing)", *(titles[k] for k in kept)], *rows]


def _by_detector(results: Sequence[RunMetrics]) -> dict[str, list[DetectorMetrics]]:
    """Return detector -> its metrics, one a seed."""
    return {name: [result.detectors[name] for result in results] for name in results[0].detectors}


def forecast_rows(results: Mapping[str, Sequence[RunMetrics]]) -> Table:
    """Return the best validation losses beside those of forecasts that learn nothing, a row a dataset."""
    table = [["validation loss", "LSTM", "best epoch", "last value", "mean"]]
    for name, seeds in results.items():
        losses = [one.forecast for one in seeds]
        cells = [_number([one.lstm for one in losses], 3), _number([one.best_epoch for one in losses], 0)]
        table.append([name, *cells, f"{losses[0].last_value:.3f}", f"{losses[0].mean:.3f}"])
    return table


SERIES_NUMBERS = ("point P", "R", "F1", "event P", "R", "F1", "average precision", "VUS-PR", "NAB score", "delay, rows")


def series_rows(results: Mapping[str, Sequence[RunMetrics]]) -> Table:
    """Return the results of several series, a row a series and detector, means last."""
    table = [["series", "detector", *SERIES_NUMBERS]]
    everything: dict[str, list[list[list[float]]]] = {}                  # detector -> series -> seed -> number
    for name, results_of_seeds in results.items():
        for detector, seeds in _by_detector(results_of_seeds).items():
            numbers = [_series_numbers(one, results_of_seeds[0].rate_hz) for one in seeds]
            everything.setdefault(detector, []).append(numbers)
            table.append([name, detector, *_cells(numbers)])
    if len(results) > 1:
        for detector, series in everything.items():
            means = [pd.DataFrame(seed).mean().tolist() for seed in zip(*series, strict=True)]
            table.append([f"**mean of {len(series)}**", detector, *_cells(means)])
    return table


def _series_numbers(one: DetectorMetrics, rate_hz: float) -> list[float]:
    rates = [getattr(part, name) for part in (one.point, one.events) for name in ("precision", "recall", "f1")]
    areas = one.threshold_free
    return [*rates, areas.auc_pr, areas.vus_pr, one.nab["standard"], one.events.delay_median_s * rate_hz]


def _cells(numbers: Sequence[Sequence[float]]) -> list[str]:
    columns = list(zip(*numbers, strict=True))
    digits = [2] * (len(columns) - 2) + [0, 0]
    return [_number(column, places) for column, places in zip(columns, digits, strict=True)]


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(values):.0f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.0f}{spread} %"


def _number(values: Sequence[float], places: int = 2) -> str:
    spread = f" ± {np.std(values):.{places}f}" if np.ptp(values) > 1e-9 else ""    # a rule has none over seeds
    return "-" if np.isnan(values).any() else f"{np.mean(values):.{places}f}{spread}"
