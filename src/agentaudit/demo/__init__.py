"""The whole system on embedded parts, with a scripted agent.

Nothing in it is pretended: a PostgreSQL server, an OpenID Connect provider and the gateway run
as processes of their own, and the agent speaks to them through psycopg and psql.
"""

from __future__ import annotations
