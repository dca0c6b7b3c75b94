"""What a command would do, judged from its text alone; no I/O, no clock."""
