"""Prompts: what completions go on from, read from files of any usual kind."""

from klvi.prompts.contexts import load_contexts

__all__ = ["load_contexts"]
