"""Rewards: from a completion's text to a score."""
