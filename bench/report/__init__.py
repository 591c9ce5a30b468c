"""One data frame of a study's cells, and the tables, plots and grids made from it."""
