"""A policy or sampler measured against a target, exactly where all sequences can be listed."""
