"""``bench run --dry-run``: the configuration, the plan and what it will cost."""
