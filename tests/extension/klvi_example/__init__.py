"""A target, a sampler, a proposal and a metric for klvi."""
