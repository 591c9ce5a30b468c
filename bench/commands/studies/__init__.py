"""``bench studies``, ``remove`` and ``export``: studies as a whole."""
