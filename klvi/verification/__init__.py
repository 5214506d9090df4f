"""`klvi verify`: what theory says, held against what this installation measures."""
