"""YAML files: a folder per config group, a file per choice."""
