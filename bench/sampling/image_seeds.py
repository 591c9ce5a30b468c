"""Images that each have a seed of their own: the same whatever they are drawn beside."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.config import UserError
from bench.config.random_streams import derive
from bench.sampling.source import Source

STREAM = "image"
FACTORIES: tuple[Any, ...] = (torch.randn, torch.rand, torch.randint)
"""What makes random tensors of a shape."""
FILLERS: tuple[Any, ...] = (Tensor.normal_, Tensor.uniform_)
"""What fills a tensor."""


class OneStreamAnImage(TorchFunctionMode):
    """Draws what is asked of one generator from several, one for each image of a batch.

    Noise of shape (n, ...) has row ``i`` from generator ``i``, as in EDM's ``generate.py``.
    UserError for noise of another first size, or by a function that cannot be split so.
    """

    def __init__(self, asked: torch.Generator, streams: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.asked, self.streams = asked, streams
        self.was_asked = False

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Split a call that draws from the generator; leave any other as it is."""
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not self.asked:
            return func(*args, **kwargs)
        del kwargs["generator"]
        if func in FILLERS:
            filled, *rest = args
            self._check(filled.shape)
            for row, stream in zip(filled, self.streams, strict=True):
                func(row, *rest, generator=stream, **kwargs)
            return filled
        if func not in FACTORIES:
            name = getattr(func, "__name__", str(func))
            raise UserError(f"it draws by {name}, whose noise has no row for each image")
        before, shape = _split(args, kwargs)
        self._check(shape)
        row = (1, *shape[1:])
        if func is torch.randint:  # Its bounds may have names, so its size has one.
            draw = partial(func, *before, size=row, **kwargs)
        else:
            draw = partial(func, row, **kwargs)
        return torch.cat([draw(generator=stream) for stream in self.streams])

    def _check(self, shape: Sequence[int]) -> None:
        self.was_asked = True
        if not shape or shape[0] != len(self.streams):
            raise UserError(
                f"it draws noise of shape {tuple(shape)} for {len(self.streams)} images, not a "
                "row for each"
            )


def _split(args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], tuple[int, ...]]:
    """Take the shape out of a call's arguments; the others stay."""
    if "size" in kwargs:
        return list(args), tuple(kwargs.pop("size"))
    if isinstance(args[-1], (tuple, list)):
        return list(args[:-1]), tuple(args[-1])
    return [], tuple(args)


def draw_images(
    source: Source, seeds: Sequence[int], size: int, labels: Sequence[int] | None = None
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64] | None]]:
    """Yield an image for each seed in batches, (n, C, H, W) as on the host, and their classes.

    All batches are computed with ``size`` images, the last one filled up, since kernels may round
    otherwise for another number; so an image depends on its seed and class alone. Without
    ``labels`` a class is drawn by the seed, as often as it is in the data.
    """
    for start in range(0, len(seeds), size):
        chosen = seeds[start : start + size]
        filled = [*chosen, *[chosen[-1]] * (size - len(chosen))]
        # What is drawn from it in a way that is not seen here is at least of these seeds.
        mixed = derive(start, f"{STREAM}s {' '.join(map(str, filled))}")
        asked = torch.Generator(source.device).manual_seed(mixed)
        streams = [
            torch.Generator(source.device).manual_seed(derive(seed, STREAM)) for seed in filled
        ]
        classes = None
        if source.frequencies is not None:
            given = labels[start : start + size] if labels is not None else None
            known = given if given is not None else [class_of(source, seed) for seed in chosen]
            classes = np.array([*known, *[known[-1]] * (size - len(known))], np.int64)
        told = None if classes is None else torch.from_numpy(classes).to(source.device)
        with OneStreamAnImage(asked, streams) as noise:
            drawn = source.draw(size, told, asked)
        if not noise.was_asked:
            raise UserError("its sampler draws nothing from the generator that it is given")
        images = source.on_host(drawn)[: len(chosen)]
        yield images, None if classes is None else classes[: len(chosen)]


def class_of(source: Source, seed: int) -> int:
    """The class that a seed's image has where none is given."""
    rng = np.random.default_rng(derive(seed, f"{STREAM} labels"))
    assert source.frequencies is not None
    return int(rng.choice(len(source.frequencies), p=source.frequencies))
