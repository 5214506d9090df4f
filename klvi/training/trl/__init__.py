"""What runs in TRL's trainers: the only modules that import TRL."""
