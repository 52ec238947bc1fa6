"""Labels against scores and events in, measures out: of points, ranges, areas, events; free response; NAB's score."""
