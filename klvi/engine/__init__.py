"""Tokens generated and scored: works on torch modules and tokens, whatever they belong to."""
