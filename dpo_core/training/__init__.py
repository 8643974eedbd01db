"""From encoded pairs to optimiser updates: batch plan, noise draws, four passes, objective."""
