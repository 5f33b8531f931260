"""Paths, locks between processes, and files that are written whole or not at all."""
