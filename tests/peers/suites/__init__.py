"""Test suites that others wrote for PostgreSQL clients, run direct, through a pump, and through us.

What works direct and through a byte pump, and not through the gateway, is our fault until
`docs/compatibility.md` gives a reason. Run as `python -m tests.peers.suites`.
"""
