"""NAB's benchmark with small networks and few settings, in seconds instead of an hour."""

import dataclasses

from nab import benchmark, forecasts
from nab.benchmark import Setting
from nab.online_lstm import OnlineOptions

SMALL = OnlineOptions(hidden_units=4, members=1, window=10, windows=2, warm_up_blocks=20, updates=1)


def use_small_networks(patch):
    patch.setattr(forecasts, "LSTM_OPTIONS", SMALL)
    patch.setattr(forecasts, "UNTRAINED", dataclasses.replace(SMALL, updates=0, update_every=0))
    patch.setattr(benchmark, "SIZES", (35,))
    patch.setattr(benchmark, "SETTINGS", (Setting(), Setting(strangest_share=0.0)))
