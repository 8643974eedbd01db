"""Numbers that say whether a preference is being learned."""
