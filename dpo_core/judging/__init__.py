"""Who says which of several images is better, when it is not a person."""
