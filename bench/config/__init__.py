"""Settings: their schema, the presets, ``--set``, seeds, and errors that are the user's to mend."""
