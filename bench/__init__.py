"""Measurements: each file times one thing and states it as a ratio to a limit measured in the same run.

Timing is not a test: nothing here passes or fails. `make bench` runs them one after the other, alone on the machine, and writes
`docs/benchmarks.md` with the machine and the date.
"""
