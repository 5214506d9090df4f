"""What makes passes faster, behind one switch."""
