"""How fast the gateway is, against no gateway and against pgbouncer, measured in one run.

Every figure is a ratio between neighbours in time: targets take turns in short slices, in
reversed order every other round, and the median of the per-round ratios is what counts. A run
whose archive does not verify, or holds another number of executions than pgbench counted, prints
no ratio at all.
"""
