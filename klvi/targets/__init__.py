"""Targets, the modelling half: which distribution is wanted, as log P = log π0 + log potential."""
