"""What bytes mean, one module a protocol; no I/O and no clock, so that bytes alone decide."""
