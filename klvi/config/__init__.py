"""What a command may be told: the schema, its composition by Hydra, and the checks."""
