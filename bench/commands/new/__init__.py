"""``bench new``: a method of one's own to start from."""
