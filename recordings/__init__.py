"""Tables, EDF, WFDB and NAB series in, windowed datasets out, on one causal grid and split in time; the simulator."""
