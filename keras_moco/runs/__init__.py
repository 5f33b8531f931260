"""A run on disk: its plan, its folder, its checkpoints, and how they are loaded."""
