"""What published papers found, measured again with initlab: see `python -m papers --help`."""
