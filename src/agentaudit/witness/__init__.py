"""A witness: says which checkpoint of a log was the largest it saw, and never contradicts itself.

It is somebody else's process on somebody else's machine, or it proves little. `protocol` decides,
`memory` keeps what was decided before anything is signed, `server` speaks HTTP.

Protocol: c2sp.org/tlog-witness
"""
