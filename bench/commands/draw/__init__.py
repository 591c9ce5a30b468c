"""``bench draw``: images of a finished cell, to look at or to use."""
