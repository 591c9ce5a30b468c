"""A study's table: its columns, numbers and notes, in four formats."""
