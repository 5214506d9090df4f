"""Prior and policy: loading, LoRA, the value head, decoding, and the embedded priors."""
