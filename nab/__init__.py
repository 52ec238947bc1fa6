"""NAB series in, scores by NAB's own rules out: online LSTMs, tail probabilities, VUS on TSB-AD's series."""
