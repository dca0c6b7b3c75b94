"""How the tables of `gateway.state_tables` came about, one file a step; Alembic runs them."""
