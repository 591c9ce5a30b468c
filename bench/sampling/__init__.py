"""Draws a method's samples and times them."""
