"""Model files of strangers: what they are is found out before anything of them is built, run or loaded."""
