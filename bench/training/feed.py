"""The data's order: batches of real images on the device."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.config.random_streams import derive
from methods.base import Batch

RESIDENT = 2**30
"""Bytes of training images up to which all of them lie on the device."""


class Feed:
    """Batches of real images on the device, reshuffled every epoch.

    Images are a tensor, whose device it is, or a numpy array, maybe memory-mapped, for ``device``:
    one of at most ``resident`` bytes goes there whole, a larger one batch by batch, the same bit
    for bit. uint8 images become float32 in [-1, 1]; float32 points stay as they are.
    """

    def __init__(
        self, images: Tensor | NDArray[Any], labels: Tensor | NDArray[Any] | None, *, batch: int,
        flip: bool, seed: int, device: torch.device | None = None, resident: int = RESIDENT,
    ) -> None:  # fmt: skip
        self.device = images.device if isinstance(images, Tensor) else device or torch.device("cpu")
        self.images: Tensor | NDArray[Any] = images
        if not isinstance(images, Tensor) and images.nbytes <= resident:
            self.images = _tensor(images, self.device)
        self.labels = None if labels is None else _tensor(labels, self.device)
        self.batch, self.flip, self.seed = batch, flip, seed
        self.drawn = 0
        self._order: dict[int, Tensor] = {}
        self._pages = self.device if isinstance(self.images, Tensor) else torch.device("cpu")

    def _epoch(self, epoch: int) -> Tensor:
        """The order of one epoch, a function of the seed and the epoch alone."""
        if epoch not in self._order:
            self._order = {key: order for key, order in self._order.items() if key == epoch - 1}
            generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
            order = torch.randperm(len(self.images), generator=generator)
            self._order[epoch] = order.to(self._pages)
        return self._order[epoch]

    def next(self, generator: torch.Generator) -> Batch:
        """Return the next ``batch`` images, flips drawn on the device."""
        parts, wanted = [], self.batch
        while wanted:
            epoch, position = divmod(self.drawn, len(self.images))
            part = self._epoch(epoch)[position : position + wanted]
            parts.append(part)
            self.drawn += len(part)
            wanted -= len(part)
        index = torch.cat(parts)
        if isinstance(self.images, Tensor):
            x = self.images[index]
        else:
            x = _tensor(self.images[index.numpy()], self.device)
        if x.dtype == torch.uint8:
            x = x.to(torch.float32) / 127.5 - 1
        if self.flip:
            mirrored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        labels = None if self.labels is None else self.labels[index.to(self.device)]
        return Batch(x=x, labels=labels, generator=generator)


def _tensor(values: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    if isinstance(values, Tensor):
        return values
    # torch shares no memory that is read-only, as a memory map's is.
    owned = values if values.flags.writeable else np.array(values)
    return torch.from_numpy(np.asarray(owned)).to(device)
