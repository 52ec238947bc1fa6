"""NAB series in, scores by NAB's own rules out: LSTMs that learn online, tail statistics, VUS on TSB-AD's series."""
