"""Score respiratory events with psgscoring; print them by recording and profile as JSON.

    VENV/bin/python benchmarks/peer_psgscoring.py recordings.npz --profiles aasm_v3_rec aasm_v3_breath_dual

Runs in psgscoring's own virtual environment and imports nothing of this project. `recordings.npz` holds an array
(channels, samples) a recording, and `channels` and `rate_hz`. There is no sleep staging: every epoch counts as sleep
(N2), which is what the package itself does where there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from pathlib import Path

import mne
import numpy as np
from psgscoring import run_pneumo_analysis

EPOCH_S = 30


def events_of(values: np.ndarray, channels: list[str], rate_hz: float, profile: str) -> list[list]:
    """Return type, onset and duration in s of the events of a recording (C, T)."""
    raw = mne.io.RawArray(values, mne.create_info(channels, rate_hz, "misc"), verbose="error")
    epochs = -(-values.shape[1] // round(EPOCH_S * rate_hz))
    result = run_pneumo_analysis(raw, ["N2"] * epochs, scoring_profile=profile)["respiratory"]
    return [[event["type"], float(event["onset_s"]), float(event["duration_s"])] for event in result["events"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--profiles", nargs="+", required=True)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    with np.load(args.recordings) as loaded:
        recordings = {name: loaded[name] for name in loaded.files}
    channels, rate_hz = recordings.pop("channels").tolist(), float(recordings.pop("rate_hz"))
    with contextlib.redirect_stdout(sys.stderr):                     # its remarks
        found = {
            profile: {name: events_of(values, channels, rate_hz, profile) for name, values in recordings.items()}
            for profile in args.profiles
        }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
