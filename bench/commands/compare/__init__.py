"""``bench compare``: what moved between two studies."""
