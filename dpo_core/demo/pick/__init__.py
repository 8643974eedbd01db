"""The demo with a person's own taste: the ranking widget on a small page of this machine."""
