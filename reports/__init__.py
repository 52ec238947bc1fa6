"""Scored recordings in, a run folder out: findings, tables, figures, the report page; scoring of new recordings."""
