"""``bench run --dry-run``: print what would be run, and do nothing."""

from __future__ import annotations

import yaml

from bench.commands.dry_run.study_estimate import estimate_study
from bench.commands.dry_run.table import lines
from bench.commands.run.options import RunOptions
from bench.commands.run.request import resolve
from bench.config.errors import MissingDataError


def dry_run(options: RunOptions) -> int:
    """Print the resolved configuration and the plan; nothing is downloaded or run."""
    request = resolve(options)
    configuration = {
        "settings": request.settings.model_dump(mode="json"),
        "methods": dict(request.methods),
        "seeds": list(request.seeds),
    }
    print(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True), end="")
    print(f"# study {request.name} in {request.folder}, {request.jobs} cell(s) at a time")
    try:
        found = estimate_study(request)
    except MissingDataError as error:
        if options.data is not None:
            raise
        print(f"# no plan before the data are there: {error}")
        return 0
    for line in lines(found):
        print(f"# {line}")
    return 0
