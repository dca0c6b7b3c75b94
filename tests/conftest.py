"""Every fixture is a named tool in `tests/peers`; nothing starts before a test asks for it."""

pytest_plugins = [
    "tests.peers.certificates",
    "tests.peers.gateway",
    "tests.peers.issuers",
    "tests.peers.postgres",
    "tests.peers.pump",
    "tests.peers.state",
]
