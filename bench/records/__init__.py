"""What lies on disk, as typed models: studies, cells, curves, and how files are written."""
