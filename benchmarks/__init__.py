"""How fast the gateway is, and how fast and how small the archive.

`python -m benchmarks` holds the gateway against no gateway and against pgbouncer. Every figure is a
ratio between neighbours in time: targets take turns in short slices, in reversed order every other
round, and the median of the per-round ratios is what counts. `python -m benchmarks.archive` seals,
verifies and asks an archive of made-up traffic, in CPU seconds. A run whose archive does not
verify, or does not hold what was put into it, prints no figure at all.
"""
