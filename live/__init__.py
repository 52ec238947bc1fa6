"""Rows in as they are measured, steps and events out as they happen; replay of a recording."""
