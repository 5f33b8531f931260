"""Image files of every format as arrays: one file per reader; `registry.py` has the registry `FORMATS`."""
