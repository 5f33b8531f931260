"""Checks of numbers and images, in Python and inside compiled graphs."""
