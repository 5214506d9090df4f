"""klvi: aligning language models as Bayesian inference."""

__version__ = "0.1.0"
