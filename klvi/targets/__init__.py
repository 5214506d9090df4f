"""MODELLING: the distribution that is wanted, as log P(x)."""
