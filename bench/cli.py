"""The ``bench`` command: parse, call, print; nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from bench import __version__
from bench.errors import UserError, unknown

STOPPED = 130
"""Exit code of a command that a signal has stopped, as shells have it for Ctrl-C."""
HELP = """Compare score-based generative models on the same data, networks, budget and device.

Start with:  bench run --methods smm,dlsm,cdm,sde --dataset digits
"""

app = App(name="bench", help=HELP, version=f"scorebench {__version__}", help_format="plaintext")
# `main` says what a stopped command leaves.
app.suppress_keyboard_interrupt = False

Results = Annotated[Path, Parameter(help="Folder of all results.")]
StudyName = Annotated[
    str | None, Parameter(help="Name of a study under the results folder; default: the latest.")
]

Weights = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="File of an extractor's weights: FILE for the preset's, NAME=FILE for another or for "
        "a TorchScript or torch.export file of your own, which is then called NAME. May be "
        "repeated.",
    ),
]
Statistics = Annotated[
    Path | None,
    Parameter(help="Reference statistics made elsewhere (.npz with mu and sigma) for FID."),
]


@app.command
def run(
    *,
    methods: Annotated[
        str | None,
        Parameter(
            help="Methods and variants (cdm:semi), comma-separated; see `bench methods`. "
            "Default: all built-in methods."
        ),
    ] = None,
    dataset: Annotated[str, Parameter(help="Data set; see `bench datasets`.")] = "digits",
    preset: Annotated[
        str | None,
        Parameter(help="Preset of the data set. Default: quick on a CPU, gpu on CUDA."),
    ] = None,
    data: Annotated[
        Path | None,
        Parameter(help="Where the images are: a folder, a zip (EDM), an .npz or an lmdb folder."),
    ] = None,
    seeds: Annotated[str, Parameter(help="Seeds: 0,1,2 or 0-2.")] = "0",
    budget: Annotated[
        str | None,
        Parameter(help="Training of each method: 50kimg, 600s or 1e15flop. Default: the preset's."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            negative="",
            help="Override one value: smm.r1_gamma=0.1 or training.batch=64. May be repeated.",
        ),
    ] = None,
    device: Annotated[
        str | None, Parameter(help="cpu, cuda, cuda:1, ... Default: cuda if there is one.")
    ] = None,
    jobs: Annotated[
        int | None,
        Parameter(help="Cells at a time. Default: 1 on a GPU; on a CPU, cores / threads."),
    ] = None,
    timeout: Annotated[
        float | None,
        Parameter(help="Seconds that a cell's process may work before it is stopped."),
    ] = None,
    memory: Annotated[
        str | None,
        Parameter(help="Memory of the host that a cell may take before it is ended: 8GiB."),
    ] = None,
    weights: Weights = None,
    reference: Statistics = None,
    study: Annotated[
        str | None, Parameter(help="Name of the study. Default: made of data set and preset.")
    ] = None,
    results: Results = Path("results"),
    tracking: Annotated[bool, Parameter(help="Log to MLflow.")] = True,
    rerun: Annotated[
        str,
        Parameter(
            help="Cells to run again: failed, stale (settings, data or source have changed), both, "
            "all (each time that the command is given) or none. Interrupted ones go on in any case."
        ),
    ] = "failed,stale",
    curve: Annotated[
        bool,
        Parameter(negative="", help="Then sample as `bench sample` does: quality against NFE."),
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Print configuration, plan and what it will cost only.")
    ] = False,
) -> int:
    """Train, sample, evaluate and compare methods; continues what was interrupted."""
    from bench import commands, options

    asked = options.Asked(
        methods=methods,
        dataset=dataset,
        preset=preset,
        data=data,
        seeds=seeds,
        budget=budget,
        overrides=set_ or [],
        device=device,
        jobs=jobs,
        timeout=timeout,
        weights=weights or [],
        reference=reference,
        study=study,
        results=results,
        rerun=rerun,
        memory=memory,
    )
    if dry_run:
        return commands.dry_run(asked)
    return commands.run(asked, tracking=tracking, with_curve=curve)


@app.command
def sample(
    study: StudyName = None,
    *,
    cells: Annotated[
        str | None,
        Parameter(
            help="Cells, comma-separated: sde-seed0,cdm-seed0. "
            "Default: all finished ones whose method has a sampler."
        ),
    ] = None,
    samplers: Annotated[
        str | None,
        Parameter(help="Samplers, as heun,dpmpp_3m. Default: one of each kind, seven."),
    ] = None,
    nfe: Annotated[
        str | None,
        Parameter(help="Network evaluations an image, at most. Default: 5,10,20,35,50,100,250."),
    ] = None,
    samples: Annotated[
        int | None, Parameter(help="Samples a point. Default: as many as the cell's own.")
    ] = None,
    jobs: Annotated[
        int | None,
        Parameter(help="Cells at a time. Default: 1 on a GPU; on a CPU, cores / threads."),
    ] = None,
    timeout: Annotated[
        float | None, Parameter(help="Seconds that a cell's points may take together.")
    ] = None,
    results: Results = Path("results"),
    tracking: Annotated[bool, Parameter(help="Log to MLflow.")] = True,
) -> int:
    """Sample finished cells again: quality against NFE for several samplers; trains nothing."""
    from bench import commands, options

    asked = options.AskedSamples(
        cells=cells,
        samplers=samplers,
        nfe=nfe,
        samples=samples,
        jobs=jobs,
        timeout=timeout,
    )
    return commands.sample(find_study(results, study), asked, tracking=tracking)


@app.command(name="time")
def time_(
    study: StudyName = None,
    *,
    cells: Annotated[
        str | None,
        Parameter(help="Cells, comma-separated: sde-seed0,cdm-seed0. Default: all finished ones."),
    ] = None,
    rounds: Annotated[
        int,
        Parameter(help="Rounds there and back: A B C C B A times each cell twice. At least 6."),
    ] = 10,
    batch: Annotated[
        int | None,
        Parameter(help="Images a batch. Default: the protocol's, which the table's times are of."),
    ] = None,
    results: Results = Path("results"),
    tracking: Annotated[bool, Parameter(help="Log to MLflow.")] = True,
) -> int:
    """Time finished cells together, in turn: ms/image, latency and ratios; trains nothing."""
    from bench import commands, options, timing

    names = options.parse_names("cells", cells)
    wish = timing.Wish(cells=names, rounds=rounds, batch=batch)
    return commands.time_together(find_study(results, study), wish, tracking=tracking)


@app.command
def evaluate(
    path: Annotated[
        str,
        Parameter(
            help="A study or a finished cell, by folder or name (digits-quick, "
            "digits-quick/sde-seed0); or a folder, zip or .npz of images made elsewhere."
        ),
    ],
    /,
    *,
    metrics: Annotated[
        str | None,
        Parameter(
            help="What to measure: fd (fid), kd (kid), is, precision, recall, density, coverage, "
            "accuracy, fdc, cas, sw2, modes. Default: all."
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        Parameter(
            help="Extractors, comma-separated. Default: the study's or the preset's; for cells "
            "these are taken too."
        ),
    ] = None,
    dataset: Annotated[
        str | None, Parameter(help="Data set that images made elsewhere are compared with.")
    ] = None,
    preset: Annotated[
        str | None, Parameter(help="Preset whose extractor and reference are taken for images.")
    ] = None,
    data: Annotated[
        Path | None, Parameter(help="Where the data set's images are, if not where they were.")
    ] = None,
    samples: Annotated[
        int | None,
        Parameter(help="Images to take, a fixed random part of those there. Default: all."),
    ] = None,
    as_: Annotated[
        str | None,
        Parameter(name="--as", help="Add the images to --study's tables and plots by this name."),
    ] = None,
    seed: Annotated[int, Parameter(help="Seed that they were drawn with, for --as.")] = 0,
    study: Annotated[
        str | None, Parameter(help="Study that --as adds to; default: the latest.")
    ] = None,
    weights: Weights = None,
    reference: Statistics = None,
    device: Annotated[
        str | None, Parameter(help="cpu, cuda, cuda:1, ... Default: cuda if there is one.")
    ] = None,
    format: Annotated[
        Literal["md", "json"], Parameter(help="Format to print the values of images in.")
    ] = "md",
    results: Results = Path("results"),
) -> int:
    """Measure finished cells again, or images made elsewhere; trains and draws nothing."""
    from bench import measure, options

    asked = options.AskedEvaluation(
        path=path,
        metrics=metrics,
        extractor=extractor,
        dataset=dataset,
        preset=preset,
        data=data,
        samples=samples,
        name=as_,
        seed=seed,
        study=None if as_ is None else find_study(results, study),
        weights=weights or [],
        reference=reference,
        device=device,
        results=results,
    )
    return measure.evaluate(asked, format)


@app.command
def reference(
    file: Annotated[Path, Parameter(help="File to write, .npz with mu and sigma.")],
    /,
    *,
    dataset: Annotated[str, Parameter(help="Data set; see `bench datasets`.")],
    preset: Annotated[
        str | None, Parameter(help="Preset whose extractor and number of images are taken.")
    ] = None,
    extractor: Annotated[str | None, Parameter(help="Extractor. Default: the preset's.")] = None,
    data: Annotated[Path | None, Parameter(help="Where the data set's images are.")] = None,
    weights: Weights = None,
    device: Annotated[
        str | None, Parameter(help="cpu, cuda, cuda:1, ... Default: cuda if there is one.")
    ] = None,
    results: Results = Path("results"),
) -> int:
    """Export a data set's reference statistics, as EDM and clean-fid read them."""
    from bench import measure, options

    asked = options.AskedEvaluation(
        path="",
        extractor=extractor,
        dataset=dataset,
        preset=preset,
        data=data,
        weights=weights or [],
        device=device,
        results=results,
    )
    return measure.export_reference(file, asked)


@app.command
def sensitivity(
    *,
    dataset: Annotated[str, Parameter(help="Data set of images; see `bench datasets`.")],
    preset: Annotated[
        str | None, Parameter(help="Preset whose extractors and reference are taken.")
    ] = None,
    extractor: Annotated[
        str | None, Parameter(help="Extractors, comma-separated. Default: the preset's.")
    ] = None,
    data: Annotated[Path | None, Parameter(help="Where the data set's images are.")] = None,
    samples: Annotated[
        int | None,
        Parameter(
            help="Images of each set, at most half the held-out ones. Default: these, up to 5000."
        ),
    ] = None,
    weights: Weights = None,
    device: Annotated[
        str | None, Parameter(help="cpu, cuda, cuda:1, ... Default: cuda if there is one.")
    ] = None,
    into: Annotated[
        Path | None, Parameter(help="Folder to write. Default: RESULTS/DATASET-sensitivity.")
    ] = None,
    results: Results = Path("results"),
) -> int:
    """Show what each metric sees of known damage to real images, and what it misses."""
    from bench import measure, options

    asked = options.AskedEvaluation(
        path="",
        extractor=extractor,
        dataset=dataset,
        preset=preset,
        data=data,
        samples=samples,
        weights=weights or [],
        device=device,
        results=results,
    )
    return measure.sensitivity(asked, into)


@app.command
def rerun(
    record: Annotated[
        str, Parameter(help="A finished cell: STUDY/CELL, its folder, or its record.json.")
    ],
    /,
    *,
    data: Annotated[
        Path | None, Parameter(help="Where the data set's images are, if not where they were.")
    ] = None,
    results: Results = Path("results"),
    tracking: Annotated[bool, Parameter(help="Log to MLflow.")] = True,
) -> int:
    """Repeat a finished cell, and say whether it is bit-equal (CPU) or within its interval."""
    from bench import commands

    return commands.rerun(record, results, data, tracking=tracking)


@app.command
def table(
    study: StudyName = None,
    *,
    format: Annotated[
        Literal["md", "csv", "latex", "json"], Parameter(help="Format to print.")
    ] = "md",
    results: Results = Path("results"),
) -> int:
    """Print a study's comparison table, and write it in every format."""
    from bench import commands

    return commands.table(find_study(results, study), format)


@app.command
def compare(
    one: Annotated[str, Parameter(help="Study to compare with, by name or folder.")],
    other: Annotated[str, Parameter(help="Study that is compared, by name or folder.")],
    /,
    *,
    format: Annotated[Literal["md", "json", "csv"], Parameter(help="Format to print.")] = "md",
    results: Results = Path("results"),
) -> int:
    """Say what moved beyond noise between two studies, and what else differs."""
    from bench import commands

    return commands.compare(study_at(results, one), study_at(results, other), format)


@app.command
def plot(study: StudyName = None, *, results: Results = Path("results")) -> int:
    """Draw a study's plots."""
    from bench import commands

    return commands.plot(find_study(results, study))


@app.command
def sync(
    study: Annotated[
        str | None, Parameter(help="Name of a study; default: all under the results folder.")
    ] = None,
    *,
    results: Results = Path("results"),
) -> int:
    """Bring MLflow up to what the cells' folders say; safe to repeat."""
    from bench import commands

    found = [find_study(results, study)] if study else studies(results)
    return commands.sync(results, found)


@app.command
def ui(
    *,
    results: Results = Path("results"),
    port: Annotated[int, Parameter(help="Port on the loopback interface.")] = 5000,
) -> int:
    """Start the MLflow UI on the results and print the link to its charts."""
    from bench.tracking.ui import ui as serve

    serve(results, port=port)
    return 0


@app.command
def new(
    name: Annotated[str, Parameter(help="Name of the method, and of its module.")],
    /,
    *,
    into: Annotated[Path, Parameter(help="Folder to write the method's own folder into.")] = Path(),
) -> int:
    """Write a method of your own to start from: a file that trains, its test, its entry point."""
    from bench import commands

    return commands.new(name, into)


@app.command
def check(
    methods: Annotated[
        str,
        Parameter(help="Methods or variants, comma-separated; all; or a Python file with one."),
    ],
    /,
    *,
    dataset: Annotated[str, Parameter(help="Data set whose shape is taken.")] = "digits",
    preset: Annotated[str, Parameter(help="Preset whose sizes are taken.")] = "smoke",
) -> int:
    """Hold methods against the interface, on the CPU; 1 if one breaks a rule."""
    from bench import commands

    return commands.check(methods, dataset, preset)


@app.command(name="methods")
def list_methods() -> int:
    """List the methods there are, built in and from plug-ins."""
    from bench import commands

    return commands.list_methods()


@app.command(name="datasets")
def list_datasets() -> int:
    """List the data sets there are, with their presets and where they are looked for."""
    from bench import commands

    return commands.list_datasets()


data_app = App(
    name="data",
    help="Prepare images of one's own ahead of a run.",
    help_format="plaintext",
)
app.command(data_app)


@data_app.command
def prepare(
    *,
    dataset: Annotated[str, Parameter(help="Data set whose preset says the size: images64.")],
    data: Annotated[
        Path | None,
        Parameter(
            help="Where the images are: a zip file (EDM, StyleGAN), a folder of class folders or "
            "of images, an .npz file (guided-diffusion) or an lmdb folder (LSUN)."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        Parameter(help="Preset of the data set. Default: quick on a CPU, gpu on CUDA."),
    ] = None,
    results: Results = Path("results"),
) -> int:
    """Decode images, crop and resize them if the preset has a size, and keep them in the cache.

    Runs on the same data then start at once, and need no more memory than a batch.
    """
    from bench import commands

    return commands.prepare_data(dataset, data, preset, results)


def studies(results: Path) -> list[Path]:
    """Return the studies under a results folder, the latest last."""
    from bench.study_file import STUDY

    found = [path.parent for path in results.glob(f"*/{STUDY}")]
    if not found:
        raise UserError(f"no study under '{results}'; run one first: bench run --help")
    return sorted(found, key=lambda folder: (folder / STUDY).stat().st_mtime)


def find_study(results: Path, name: str | None) -> Path:
    """Return the folder of a study by name, or of the latest; UserError if there is none."""
    found = studies(results)
    if name is None:
        return found[-1]
    for folder in found:
        if folder.name == name:
            return folder
    raise unknown("study", name, [folder.name for folder in found])


def study_at(results: Path, given: str) -> Path:
    """Return a study's folder, given as such or by name; UserError if there is none."""
    from bench.study_file import is_study

    folder = Path(given)
    return folder if is_study(folder) else find_study(results, given)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parse: dict[str, Any] = {"exit_on_error": False, "print_error": False}
    try:
        result = app(arguments, result_action="return_value", **parse)
    except CycloptsError as error:
        return complain(f"{' '.join(str(error).split())} (see `bench --help`)")
    except UserError as error:
        return complain(str(error))
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does: no reason for a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        complain(f"{error.strerror or error}: {error.filename or 'see above'}")
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return STOPPED
    return result if isinstance(result, int) else 0


def complain(line: str) -> int:
    """Print the one line of an error."""
    print(f"bench: {' '.join(line.split())}", file=sys.stderr)
    return 2


def script() -> None:
    """Entry point of the installed command."""
    code = main()
    if code == STOPPED:
        # A scheduler's patience is short, and large libraries take seconds to be taken down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
