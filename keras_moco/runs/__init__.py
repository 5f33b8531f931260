"""A run on disk: its plan, its folder, its checkpoints, and what is loaded from them."""
