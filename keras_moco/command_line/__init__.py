"""How a command starts and ends: flags, signals, output, exit status."""
