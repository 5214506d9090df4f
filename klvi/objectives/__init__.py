"""INFERENCE by training: pure losses, and what each needs from a rollout."""
