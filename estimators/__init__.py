"""Arrays or DataFrames in, scores and events out: the detector as a library, and as one of PyOD's and aeon's."""
