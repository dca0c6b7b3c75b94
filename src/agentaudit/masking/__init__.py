"""What a rule hides, found and replaced before anything is recorded; no I/O, no clock."""
