"""``bench studies``: which studies there are."""
