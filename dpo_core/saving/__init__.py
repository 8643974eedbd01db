"""Everything that reaches the disk. All writes are atomic."""
