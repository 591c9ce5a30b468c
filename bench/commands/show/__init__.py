"""What only shows: the tables and plots of studies, MLflow's pages, and what there is to run."""
