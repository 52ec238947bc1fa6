"""Forecast and fact in, events out: features, scores, a frozen threshold; the detector and its checkpoint."""
