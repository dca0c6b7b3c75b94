"""The archive, format 1: crash-proof, tamper-evident, provable by third parties.

`recorder` takes events from the gateway into `journal`; `sealer`, a process of its own, turns
the journal into Parquet (`segment`) and signs what it made (`merkle`, `note`, `log`); `snapshot`
reads; `verify` believes nothing. `layout` is the only place that builds a path.

Format: docs/formats/archive.md
"""
