"""Files of any kind in, windowed datasets out: tables, EDF, WFDB and NAB series on one causal grid, split in time."""
