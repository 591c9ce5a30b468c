"""What the machine is like while something is timed: clocks, heat, throttling, other load."""
