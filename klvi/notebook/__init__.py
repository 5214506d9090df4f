"""What `klvi` gives a notebook: a prior loaded, a policy trained, either measured."""
