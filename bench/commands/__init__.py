"""What the commands do: a folder a command, with its options and what it alone needs."""
