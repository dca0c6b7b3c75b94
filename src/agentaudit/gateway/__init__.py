"""The gateway: all the network input and output there is, on one event loop.

`relay` moves bytes between two connections once a session is open and knows no protocol;
`postgres` is the dialogue that opens a session; `server` accepts, limits, reloads and drains.
"""
