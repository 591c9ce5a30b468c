"""``bench check``: methods held against the interface."""
