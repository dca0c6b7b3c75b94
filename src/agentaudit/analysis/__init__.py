"""Reads an archive: every question that a person asks of it, and nothing that writes.

DuckDB is imported by `store` alone, so that `printable` serves the command line without it.
"""
