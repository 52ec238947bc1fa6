"""What a run amounts to, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from evaluation.results import LSTM, RANDOM, UNTRAINED, DetectorMetrics, KindMeasures, RunMetrics
from utils import counted

FEW = 20                                 # events, below which a share is told as "3 of 10"


def verdict_of(metrics: RunMetrics, is_series: bool) -> list[str]:
    """Return what a run amounts to, in sentences; the first one is the verdict."""
    if not metrics.detectors:
        found = metrics.found
        amount = f"{found.hours:.1f} hours of {counted(found.recordings, 'recording')}"
        if is_series:
            amount = f"{found.hours * 3600 * metrics.rate_hz:.0f} rows of {found.recordings} series"
        per_hour = "" if is_series or not found.hours else f", {found.events / found.hours:.1f} an hour"
        return [
            f"The LSTM found {counted(found.events, 'event')} in {amount}{per_hour}.",
            "Nothing is labelled here: whether they are true, and what was missed, is not known.",
        ]
    first = _series_verdict(metrics.detectors) if is_series else _breathing_verdict(metrics)
    return [first, *_where_baselines_lead(metrics.detectors)]


def _breathing_verdict(metrics: RunMetrics) -> str:
    lstm = metrics.detectors[LSTM]
    groups = _groups(lstm.kinds, metrics.fault_kinds)
    if not groups:
        found = counted(lstm.events.found_events, "event")
        return f"No event is labelled in the test recordings; the LSTM found {found}."
    parts = [_share(lstm.kinds, kinds, name) for name, kinds in groups.items()]
    text = f"The LSTM found {_and(parts)} at {_per_hour(lstm)}"
    for name in [name for name in metrics.detectors if name not in (LSTM, RANDOM)][:1]:
        baseline = metrics.detectors[name]
        shares = [_share(baseline.kinds, kinds) for kinds in groups.values()]
        text += f"; the {name} found {_and(shares)} at {_per_hour(baseline)}"
    return f"{text}."


def _groups(kinds: Iterable[str], fault_kinds: Sequence[str]) -> dict[str, list[str]]:
    """Return what labelled kinds are called together: apneas, hypopneas, the others."""
    groups: dict[str, list[str]] = {"apneas": [], "hypopneas": [], "others": []}
    for kind in kinds:
        if kind not in fault_kinds:
            name = "hypopneas" if kind.endswith("hypopnea") else "apneas" if kind.endswith("apnea") else "others"
            groups[name].append(kind)
    if groups["others"]:
        name = "other labelled events" if groups["apneas"] or groups["hypopneas"] else "labelled events"
        groups[name] = groups.pop("others")
    return {name: members for name, members in groups.items() if members}


def _share(kinds: Mapping[str, KindMeasures], members: Sequence[str], name: str = "") -> str:
    found, labelled = (sum(getattr(kinds[kind], key) for kind in members) for key in ("found", "labelled"))
    if labelled < FEW:
        return f"{found} of {labelled} {name}".rstrip()
    share = f"{100 * found / labelled:.0f}\N{NO-BREAK SPACE}%"
    return f"{share} of {labelled} {name}" if name else share


def _series_verdict(detectors: Mapping[str, DetectorMetrics]) -> str:
    events, others = detectors[LSTM].events, [name for name in detectors if name != LSTM]
    if not events.labelled_events:
        return f"No window is labelled in the test rows; the LSTM found {counted(events.found_events, 'event')}."
    best = _most_precise(detectors, [name for name in others if name not in (UNTRAINED, RANDOM)])
    windows = counted(events.labelled_events, "label window")
    return (
        f"The LSTM found {events.matched_events} of {windows} with {counted(events.found_events, 'event')}, of "
        f"which {events.false_events} are false; its average precision is {_precision(detectors[LSTM])}, the best "
        f"amplitude baseline, {best}, has {_precision(detectors[best])}."
    )


def _where_baselines_lead(detectors: Mapping[str, DetectorMetrics]) -> list[str]:
    """Return sentences on where a detector without training is ahead of the LSTM."""
    lstm, others = detectors[LSTM], [name for name in detectors if name != LSTM]
    sentences, kinds = [], []
    for kind, row in lstm.kinds.items():
        better = max(others, key=lambda name: detectors[name].kinds[kind].found)
        most = detectors[better].kinds[kind].found
        if most > row.found:
            kinds.append(f"{kind.replace('_', ' ')} ({row.found} of {row.labelled}; {better} {most})")
    if kinds:
        sentences.append(f"Found more often without training: {_and(kinds)}.")
    ahead = _most_precise(detectors, detectors)
    if ahead != LSTM:
        both = f"{_precision(detectors[ahead])} against {_precision(lstm)}"
        sentences.append(f"By average precision a baseline is ahead of the LSTM: {ahead}, {both}.")
    return sentences


def _per_hour(one: DetectorMetrics) -> str:
    rate = one.events.false_events_per_hour
    return "an unknown number of false events" if math.isnan(rate) else f"{rate:.1f} false events an hour"


def _precision(one: DetectorMetrics) -> str:
    value = one.threshold_free.auc_pr
    return "unknown" if math.isnan(value) else f"{value:.2f}"


def _most_precise(detectors: Mapping[str, DetectorMetrics], names: Iterable[str]) -> str:
    """Return the first of the detectors whose average precision is the highest; an unknown one counts as 0."""
    return max(names, key=lambda name: np.nan_to_num(detectors[name].threshold_free.auc_pr))


def _and(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
