"""A cell of a study, and samples drawn anew from what it trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config import UserError
from bench.records import Record

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from bench.worker import Trained


@dataclass(frozen=True, eq=False)
class StudyCell:
    """One method with one seed."""

    folder: Path
    record: Record
    """Status, metrics with provenance, costs, ledger and environment."""

    def samples(
        self, n: int, *, labels: int | Sequence[int] | NDArray[np.integer] | None = None
    ) -> NDArray[Any]:
        """Draw from the averaged networks of the cell's checkpoint, with its own sampler.

        Without ``labels`` the first ``n`` of the cell's own stream: on a CPU, those that it kept
        and was measured on, to the bit.

        Args:
            n: images to draw, at least one.
            labels: the class for all, or one for each, (n,), for methods that take classes; by
                default classes are drawn as often as they are in the data.

        Returns:
            uint8 images (n, C, H, W), or float points (n, 2, 1, 1).

        Raises:
            UserError: the cell is not finished, its checkpoint is gone, its method's source has
                changed since, its data are not there, or the labels do not fit.
        """
        from bench.sampling.source import draw_batches
        from bench.training.checkpoint import generators_kept

        if n < 1:
            raise UserError(f"{n} samples: draw at least one")
        with generators_kept():
            built = self._trained.build()
            source, batch = built.source("samples"), built.config.settings.sampling.batch
            if labels is not None:
                classes = source.frequencies
                if classes is None:
                    raise UserError(f"'{self.record.method}' draws without labels; leave them out")
                given = given_labels(labels, n, len(classes), batch, built.device)
                source.labels = given  # type: ignore[method-assign]
            return draw_batches(source, n, batch)[0]

    @cached_property
    def _trained(self) -> Trained:
        from bench.commands.finished_cells import refusal
        from bench.records import read_study
        from bench.worker import load_finished

        sha256 = read_study(self.folder.parent).prepared.data_sha256
        reason = refusal(self.folder, self.record, sha256)
        if reason is not None:
            raise UserError(f"{self.folder.name}: {reason}")
        cache = self.folder.parent.parent.resolve() / "cache"
        return load_finished(self.folder, cache, sha256)


def given_labels(labels: Any, n: int, classes: int, batch: int, device: torch.device) -> Any:
    """Return what gives a source its batches' labels: one for all, or n, (n,), the last repeated.

    Raises UserError where they do not fit.
    """
    import numpy as np
    import torch

    found = np.asarray(labels)
    if found.dtype.kind not in "iu" or found.shape not in {(), (n,)}:
        raise UserError(f"labels: give one class, or {n} of them, as whole numbers")
    if not 0 <= found.min() <= found.max() < classes:
        raise UserError(f"labels: classes are 0 to {classes - 1}")
    every = np.broadcast_to(found, (n,)).astype(np.int64)
    filled = torch.from_numpy(np.pad(every, (0, -n % batch), mode="edge"))
    return lambda size, index: filled[index * size : (index + 1) * size].to(device)
