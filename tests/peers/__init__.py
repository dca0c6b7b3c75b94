"""Real peers as fixtures: servers, issuers, the gateway itself, and a byte pump to watch them.

Each module is a pytest plugin that `tests/conftest.py` names. Servers are shared by the tests of
a worker, so a test makes what it changes: a table of its own, a user of its own.
"""
