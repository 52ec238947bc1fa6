"""Labels against scores and events in, measures out: event, point, range and area measures, baselines, NAB's score."""
