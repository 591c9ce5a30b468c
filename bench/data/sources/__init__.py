"""What data sets are read from; ``layout`` is what all give, ``image_cache`` keeps it decoded."""
