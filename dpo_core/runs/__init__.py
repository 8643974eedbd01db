"""Looking at runs: what is on the disk of them, told in plain data."""
