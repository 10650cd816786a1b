"""Projections: every record and every link of the log, in a view that can be dropped and made again."""
