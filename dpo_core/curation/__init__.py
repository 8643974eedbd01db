"""From a folder of generations to preferences: scan, groups, what was ranked of it, review."""
