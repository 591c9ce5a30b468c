"""``bench time``: finished cells timed together, in turn."""
