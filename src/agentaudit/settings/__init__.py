"""What a gateway is told by its `agentaudit.toml`, and how that is read."""
