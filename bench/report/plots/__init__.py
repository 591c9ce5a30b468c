"""A study's pictures: quality against cost, curves, seconds by part, samples side by side."""
