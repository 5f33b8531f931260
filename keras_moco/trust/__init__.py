"""Checks of model files from untrusted sources, before anything in them is built, run or loaded."""
