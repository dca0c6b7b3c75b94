"""An hour of everything at once against a real server and a real gateway: `make soak MINUTES=60`.

What the clients were told, what the server says it ran and what the archive holds must be one
story at the end, and the gateway no larger than it was.
"""
