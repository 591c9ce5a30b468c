"""``bench report``: studies as pages, and the list of all."""
