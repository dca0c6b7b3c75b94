"""Fuzzing of all that reads bytes of strangers: it parses or says that it is a protocol error.

`targets` has the properties, `corpus` what real clients and a real server have said to each other.
Hypothesis mutates that in the tests beside this; atheris, guided by coverage, in `make fuzz`.
"""
