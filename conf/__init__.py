"""The command line's configuration files, importable so that an installed klvi finds them."""
