"""Where a run's numbers go: the console, JSON lines, Weights & Biases."""
