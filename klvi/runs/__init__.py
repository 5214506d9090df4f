"""A run's folder: whose it is, who writes in it, and what it may make klvi do."""
