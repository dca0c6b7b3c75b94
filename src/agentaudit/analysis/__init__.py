"""Reads an archive: every question that a person asks of it, and nothing that writes to it.

What people say of it is written beside it, by `annotations` alone.

DuckDB is imported by `store` alone, so that `printable` serves the command line without it.
"""
