"""Prompts: what completions go on from, read from files of any usual kind."""
