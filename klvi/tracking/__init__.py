"""Tracking: a run's console, its files, and wandb."""
