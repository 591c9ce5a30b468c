"""``bench data``: images of one's own made ready ahead of a run."""
