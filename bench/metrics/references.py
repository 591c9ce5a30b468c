"""What samples are compared with: a training split's statistics, computed once and then kept.

By ``--reference`` those of a ``.npz`` file with ``mu`` and ``sigma``, as EDM and clean-fid write
them, take their place; what needs the reference's features (kernel distance, precision, class-wise
distance) is then left out.
"""

import glob
import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from bench.config import UserError, one_line
from bench.data.dataset import Dataset, Progress, unheard
from bench.metrics.extractors.loading import Extractor
from bench.metrics.features import BATCH, extract
from bench.metrics.frechet_distance import Moments, permutation
from bench.metrics.kernel_and_precision_recall import mean_within
from bench.metrics.protocol import PROTOCOL
from bench.records import new_file, write_archive

KEPT = 50_000
"""Images whose features are kept; mean and covariance are of all."""
KERNEL = 10_000
"""Images that the kernel distance is taken to, at most."""
_BLOCK = 4096
"""Images that are extracted between two updates of the moments."""


@dataclass(frozen=True)
class Reference:
    """Mean and covariance, float64, of an extractor's features on a data set's images.

    ``features`` (K, d) float32 are those of ``KEPT`` images at most, mapped from a file, in a fixed
    random order, so that any first part of them is a fair sample; ``labels`` (K,) are their
    classes, where there are any. ``kernel_mean`` is the mean kernel within the first ``KERNEL``.
    Imported statistics have none of these, and in ``imported`` the file's name and hash.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    n: int | None
    split: str
    dataset: str
    variant: str
    data_sha256: str
    extractor_sha256: str
    features: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    classes: int = 0
    kernel_mean: float | None = None
    imported: dict[str, str] = field(default_factory=dict)

    def of_class(self, label: int) -> NDArray[np.float32]:
        """Return the kept features of one class, (N_c, d)."""
        assert self.features is not None
        return np.asarray(self.features[self.labels == label])


def reference(
    dataset: Dataset, extractor: Extractor, *, cache: Path, limit: int | None = None,
    batch: int = BATCH, file: Path | None = None, progress: Progress = unheard,
) -> Reference:  # fmt: skip
    """Return the training split's statistics, computed once and then kept under ``cache``.

    ``limit`` takes that many images of a fixed random order instead of all. A file serves only what
    it was made from; one that cannot be read is made again. Of several processes one computes and
    the others wait. ``file`` are statistics made elsewhere, taken instead, or UserError.
    """
    about: dict[str, Any] = {"dataset": dataset.name, "variant": dataset.variant}
    about |= {"data_sha256": dataset.sha256, "extractor_sha256": extractor.sha256}
    if file is not None:
        return _imported(file, extractor, about)
    rows = selected_rows(len(dataset.train), limit)
    path = _path_of(dataset, extractor, cache, len(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        stored = _read(path)
        if stored is None:
            _compute(path, dataset, rows, extractor, batch=batch, progress=progress)
            stored = _read(path)
    assert stored is not None, f"{path} was just written"
    labelled = dataset.train.labels is not None
    return Reference(
        stored["mu"], stored["sigma"], n=len(rows), split="train", features=stored["features"],
        labels=stored["labels"] if labelled else None,
        classes=len(dataset.classes) if labelled else 0,
        kernel_mean=float(stored["kernel_mean"]), **about,
    )  # fmt: skip


def is_stored(dataset: Dataset, extractor: Extractor, *, cache: Path, limit: int | None) -> bool:
    """Whether the statistics that ``reference`` would compute are kept already."""
    rows = len(selected_rows(len(dataset.train), limit))
    return _path_of(dataset, extractor, cache, rows).exists()


def _path_of(dataset: Dataset, extractor: Extractor, cache: Path, rows: int) -> Path:
    key = f"reference 2 {PROTOCOL} {dataset.sha256} {extractor.name} {extractor.sha256} {rows}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    return cache / "references" / f"{dataset.variant}-{extractor.name}-{digest}.npz"


def selected_rows(count: int, limit: int | None) -> NDArray[np.int64]:
    """Return which of ``count`` images make a reference, in order: all, or ``limit`` by chance."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(permutation(count)[:limit])


def _compute(
    path: Path, dataset: Dataset, rows: NDArray[np.int64], extractor: Extractor, *,
    batch: int, progress: Progress,
) -> None:  # fmt: skip
    """Extract the images a block at a time; features go to their file as they come."""
    images, labels = dataset.train.images, dataset.train.labels
    if len(rows) < 2:
        what = f"'{dataset.name}' from {dataset.source} has {len(rows)} training image(s)"
        raise UserError(f"{what} to compare with; give two or more")
    order = permutation(len(rows))[:KEPT]
    place = np.full(len(rows), -1)
    place[order] = np.arange(len(order))
    total: Moments | None = None
    for left in path.parent.glob(f".{glob.escape(_features_path(path).name)}.*"):
        left.unlink()  # By a process that was killed; whoever lives would hold the lock.
    with new_file(_features_path(path)) as temporary:
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            features = extract(extractor, images[rows[block]], batch=batch).features
            if total is None:
                shape = (len(order), features.shape[1])
                kept = np.lib.format.open_memmap(temporary, "w+", dtype=np.float32, shape=shape)
                total = Moments(shape[1])
            total.update(features)
            wanted = place[block] >= 0
            kept[place[block][wanted]] = features[wanted]
            progress(min(1.0, block.stop / len(rows)))
        kept.flush()
    assert total is not None
    mean = mean_within(kept[:KERNEL], device=extractor.device)
    content: dict[str, Any] = {"mu": total.mean, "sigma": total.covariance}
    content |= {"kernel_mean": np.array(mean), "kept": np.array(len(order))}
    content["labels"] = np.zeros(0, np.int64) if labels is None else labels[rows[order]]
    # The moments last: where they are, the features are whole.
    write_archive(path, lambda file: np.savez(file, **content))


def _features_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-features.npy")


def _read(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return what is kept, the features memory-mapped, or None where it is not whole."""
    try:
        # Opened here, since numpy leaves a file that it cannot read open.
        with path.open("rb") as file, np.load(file) as stored:
            found = {key: stored[key] for key in ("mu", "sigma", "labels", "kernel_mean")}
            kept = int(stored["kept"])
        features = np.load(_features_path(path), mmap_mode="r")
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    size = found["mu"].size
    whole = features.shape == (kept, size) and found["sigma"].shape == (size, size)
    return found | {"features": features} if whole else None


_TOLD = {
    "data": "reference_data", "data_sha256": "reference_data_sha256",
    "split": "reference_data_split",
}  # fmt: skip
"""What a file may tell of its images, and how a value's provenance has it."""


class Statistics(NamedTuple):
    """The content of a file of statistics, and what it tells of them."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    n: int | None
    told: dict[str, str]
    file_sha256: str


def _imported(path: Path, extractor: Extractor, about: dict[str, Any]) -> Reference:
    found = read_statistics(path)
    for how, key, ours in (
        ("by an extractor of sha256", "extractor_sha256", extractor.sha256),
        ("with resize", "resize", extractor.resize),
    ):
        theirs = found.told.get(key, ours)
        if theirs != ours:
            raise UserError(
                f"--reference {path}: made {how} '{theirs}', and '{extractor.name}' has '{ours}'; "
                "give the file of the same extractor"
            )
    told = {"reference_file": path.name, "reference_sha256": found.file_sha256}
    told |= {name: found.told.get(key, "not told by the file") for key, name in _TOLD.items()}
    return Reference(found.mu, found.sigma, n=found.n, split="imported", imported=told, **about)


def read_statistics(path: Path) -> Statistics:
    """Read ``mu`` (d,) and ``sigma`` (d, d) of EDM's or clean-fid's ``.npz`` file; or UserError."""
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content)) as stored:
            mu, sigma = (np.asarray(stored[key], np.float64) for key in ("mu", "sigma"))
            n = int(stored["n"]) if "n" in stored else None
            keys = ("extractor_sha256", "resize", *_TOLD)
            told = {key: str(stored[key]) for key in keys if key in stored}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--reference {path}: no statistics ({one_line(error)[:120]}); give a "
            ".npz file with 'mu' and 'sigma', as EDM's and clean-fid's"
        ) from error
    _check_statistics(path, mu, sigma)
    return Statistics(mu, sigma, n, told, hashlib.sha256(content).hexdigest())


def _check_statistics(path: Path, mu: NDArray[Any], sigma: NDArray[Any]) -> None:
    fits = mu.ndim == 1 and sigma.shape == (len(mu), len(mu))
    if not fits or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        wrong = f"mu {mu.shape} and sigma {sigma.shape} do not belong together or are not finite"
    elif not np.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-6 * float(np.abs(sigma).max())):
        wrong = "sigma is not symmetric"
    elif float(np.linalg.eigvalsh(sigma)[0]) < -1e-3 * float(np.abs(sigma).max()):
        wrong = "sigma has negative eigenvalues"
    else:
        return
    raise UserError(f"--reference {path}: {wrong}; give the file of a mean and its covariance")


def export(path: Path, reference: Reference, extractor: Extractor) -> None:
    """Write ``mu``, ``sigma`` and where they are from as a file that EDM and clean-fid read."""
    facts = {
        "n": reference.n, "split": reference.split,
        "data": reference.variant, "data_sha256": reference.data_sha256,
        "extractor": extractor.name, "extractor_sha256": extractor.sha256,
        "resize": extractor.resize,
    }  # fmt: skip
    content: dict[str, Any] = {"mu": reference.mu, "sigma": reference.sigma}
    content |= {key: np.array(value) for key, value in facts.items() if value is not None}
    write_archive(path, lambda file: np.savez(file, **content))
