"""Found and labelled respiratory events in, one-to-one pairs out, and what they say of extents, kinds and counts.

A pair's intersection over union (IoU) has to reach a least value; each event is in one pair at most, so that no label
is given away to a neighbour, and no long event collects several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from evaluation.agreement import agreement_of, ahi_bias, ahi_mae, rates_of
from evaluation.results import NightAgreement, RespiratoryMeasures
from recordings.windowing import Span, overlap

LEAST_IOU = (0.2, 0.5)


def intersection_over_union(found: Sequence[Span], labelled: Sequence[Span]) -> np.ndarray:
    """Return the IoU (F, L) of each found with each labelled span, 0 to 1."""
    found, labelled = (np.asarray(spans, float).reshape(-1, 2) for spans in (found, labelled))
    start, end = np.maximum(found[:, None, 0], labelled[:, 0]), np.minimum(found[:, None, 1], labelled[:, 1])
    intersection = np.maximum(end - start, 0.0)
    total = np.diff(found)[:, None, 0] + np.diff(labelled)[:, 0]
    return intersection / np.maximum(total - intersection, 1e-9)


def pair_events(found: Sequence[Span], labelled: Sequence[Span], least_iou: float) -> list[tuple[int, int]]:
    """Return the places of the events that belong together, found and labelled, with the largest IoU in sum."""
    if not found or not labelled:
        return []
    from scipy.optimize import linear_sum_assignment  # takes a while to import

    iou = intersection_over_union(found, labelled)
    pairs = zip(*linear_sum_assignment(np.where(iou >= least_iou, iou, 0.0), maximize=True), strict=True)
    return [(int(k), int(j)) for k, j in pairs if iou[k, j] >= least_iou]


def judged(
    found: Sequence[Span], labelled: Sequence[Span], uncounted: Sequence[Span]
) -> tuple[dict[int, int], list[bool]]:
    """Return which found event belongs to which labelled one, by their places, and which found ones count (F,).

    An event without a label that overlaps an uncounted span is neither true nor false: nobody labelled single events
    there.
    """
    pairs = dict(pair_events(found, labelled, LEAST_IOU[0]))
    counts = [k in pairs or not any(overlap(span, other) for other in uncounted) for k, span in enumerate(found)]
    return pairs, counts


def respiratory_measures(
    profile: str, found: Sequence[Sequence[tuple[Span, str]]], labelled: Sequence[Sequence[tuple[Span, str]]],
    hours: Sequence[float], names: Sequence[str],
) -> RespiratoryMeasures:  # fmt: skip
    """Return what the pairs of several recordings say.

    Args:
        profile: by which the events were scored.
        found, labelled: of each recording, the span and kind of each event.
        hours: of each recording, in which breathing was measured; without any, it has no AHI.
        names: of the recordings.
    """
    paired, errors, kinds, nights = Counter(), [], Counter(), []
    for name, mine, known, measured in zip(names, found, labelled, hours, strict=True):
        spans, wanted = [span for span, _ in mine], [span for span, _ in known]
        for least in LEAST_IOU:
            pairs = pair_events(spans, wanted, least)
            paired[least] += len(pairs)
            if least == LEAST_IOU[0]:
                nights.append(_night(name, measured, len(known), len(mine), len(pairs)))
                errors += [(spans[k][0] - wanted[j][0], np.ptp(spans[k]) - np.ptp(wanted[j])) for k, j in pairs]
                called = {j: mine[k][1] for k, j in pairs}
                kinds.update((kind, called.get(j, "")) for j, (_, kind) in enumerate(known))
    confusion: dict[str, dict[str, int]] = {}
    for (kind, called), count in sorted(kinds.items()):
        confusion.setdefault(kind, {})[called] = count
    n_found, n_labelled = sum(map(len, found)), sum(map(len, labelled))
    onset, duration = np.median(errors, axis=0) if errors else (np.nan, np.nan)
    total = n_found + n_labelled
    rates = rates_of(nights)
    return RespiratoryMeasures(
        profile=profile,
        labelled=n_labelled,
        found=n_found,
        paired={str(least): paired[least] for least in LEAST_IOU},
        f1={str(least): 2 * paired[least] / total if total else np.nan for least in LEAST_IOU},
        onset_error_s=float(onset),
        duration_error_s=float(duration),
        kinds=confusion,
        ahi_bias=float(ahi_bias(rates)) if len(rates) else np.nan,
        ahi_mae=float(ahi_mae(rates)) if len(rates) else np.nan,
        agreement=agreement_of(nights),
    )


def _night(name: str, hours: float, labelled: int, found: int, paired: int) -> NightAgreement:
    total = labelled + found
    return NightAgreement(
        recording=name, hours=hours, labelled=labelled, found=found, paired=paired,
        labelled_ahi=labelled / hours if hours > 0 else np.nan,
        found_ahi=found / hours if hours > 0 else np.nan,
        f1=2 * paired / total if total else np.nan,
    )  # fmt: skip
