"""One file a layout, what all of them give (``layout``), and the cache of what was decoded."""
