"""Priors that ship with klvi or are made on the spot, for work offline."""
