"""A run: its parts, its folder, its checkpoints and what it records."""
