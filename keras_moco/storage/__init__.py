"""Paths, locks between processes, and files that are replaced atomically."""
