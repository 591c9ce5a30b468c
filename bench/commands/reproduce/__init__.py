"""``bench reproduce``: a finished cell made again from its folder alone."""
