"""Small priors: grammar, stories, fit and quality."""
