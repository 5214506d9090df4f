"""The one loop, PPO on TRL, checkpoints, and the assembly of a run."""
