"""Any network as an extractor: a TorchScript or ``torch.export`` file under a name of one's own.

The file takes a batch of uint8 images (B, C, H, W) and gives features (B, d), or features and
logits (B, K); resizing and scaling are its own affair. Such a file is code, which runs with the
rights of whoever starts it: give only files whose maker is trusted. Its SHA-256 goes into every
value, and what it gives is tried on a few images of each shape before it is believed.
"""

import io
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from bench.config import UserError
from bench.metrics.extractors.resizing import times

Shape = tuple[int, ...]

_PARTS = ("features", "logits")
RESIZE = "the file's own"
"""What a value's provenance says of the resize."""

_HOW = (
    "torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim('batch')},)), "
    "images being uint8 (B, C, H, W)"
)
_SAVE = "save the network with torch.jit.save(torch.jit.script(net)) or torch.export.save"
_CLOSE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""The features' types, and by how much of the largest an image alone may differ from the same in a
batch: rounding, not another function."""


@dataclass(frozen=True)
class Exported:
    """A file's network on a device; ``about`` names it in messages.

    ``takes`` is the only shape (C, H, W) that it can take, where the file says so.
    """

    about: str
    network: Any
    device: torch.device
    takes: tuple[int, int, int] | None
    _tried: set[Shape] = field(default_factory=set)

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, d) and probabilities (B, K) of uint8 images, K = 0 without logits."""
        features, *logits = self.outputs(images)
        if not logits:
            return features, features.new_zeros((len(features), 0), dtype=torch.float32)
        return features, logits[0].float().softmax(dim=1)

    def outputs(self, images: Tensor) -> Sequence[Tensor]:
        """Return what the network gives: features, and logits if it has any."""
        try:
            # Torch's advice about formats is no use: the file is what it is.
            with warnings.catch_warnings(action="ignore"):
                given = self.network(images)
        except Exception as error:
            # What is in the file decides what is raised.
            raise UserError(
                f"{self.about} failed on {len(images)} uint8 images of "
                f"{times(images.shape[1:])}: {_last_line(error)}"
            ) from error
        parts = given if isinstance(given, tuple | list) else (given,)
        if len(parts) not in (1, 2) or not all(isinstance(part, Tensor) for part in parts):
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise self._wrong(f"gives {kinds or 'nothing'}")
        return parts

    def check(self, shape: Shape) -> None:
        """Try the network on a few images of a shape (C, H, W), once; UserError if it is wrong."""
        if shape in self._tried:
            return
        images = _trial(shape).to(self.device)
        together = self.outputs(images)
        for what, values in zip(_PARTS, together, strict=False):
            self._check_form(what, values, len(images))
        singly = [self.outputs(image[None]) for image in images]
        for index, (what, whole) in enumerate(zip(_PARTS, together, strict=False)):
            self._check_rows(what, whole, [one[index] for one in singly if index < len(one)])
        if len(together) == len(_PARTS) and bool((together[1] >= 0).all()):
            sums = together[1].float().sum(dim=1)
            if torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
                raise self._wrong("gives probabilities in place of logits")
        self._tried.add(shape)

    def _check_form(self, what: str, values: Tensor, count: int) -> None:
        if values.dim() != 2 or len(values) != count or values.shape[1] == 0:
            raise self._wrong(f"gives {what} of {times(values.shape)} for {count} images")
        if values.dtype not in _CLOSE:
            raise self._wrong(f"gives {what} of {values.dtype}, not of a floating type")
        if not bool(values.isfinite().all()):
            raise self._wrong(f"gives {what} that are not finite")

    def _check_rows(self, what: str, whole: Tensor, rows: Sequence[Tensor]) -> None:
        """Refuse a network to which the other images of a batch, or chance, matter."""
        if [row.shape for row in rows] != [(1, whole.shape[1])] * len(whole):
            raise self._wrong(f"gives other shapes of {what} for one image than for several")
        alone, together = torch.cat([*rows]).float(), whole.float()
        moved = float((alone - together).abs().max() / together.abs().max().clamp(1e-30))
        if not moved <= _CLOSE[whole.dtype]:
            raise UserError(
                f"{self.about} gives an image alone other {what} than in a batch (by "
                f"{moved:.2g} of the largest); put the network into eval() before it is saved"
            )

    def _wrong(self, what: str) -> UserError:
        return UserError(
            f"{self.about} {what}; it must give features (B, d), or a pair of features and "
            "logits (B, K) before any softmax, floating and finite"
        )


def load_exported(name: str, where: str, content: bytes, device: torch.device) -> Exported:
    """Load a network of a file's bytes, and try it where it tells the images' shape.

    ``where`` is the file, for messages. UserError where no extractor can be made of it.
    """
    about = f"extractor '{name}' ({where})"
    is_script = _is_torchscript(content, about)
    load: Any = partial(torch.jit.load, map_location=device) if is_script else torch.export.load
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = load(io.BytesIO(content))
    except Exception as error:
        # What is in the file decides what is raised.
        raise UserError(
            f"{about}: torch {torch.__version__} cannot load it ({_last_line(error)}); save the "
            "network again with this version"
        ) from error
    takes = None if is_script else _declared(loaded, about)
    with warnings.catch_warnings(action="ignore"):
        network = loaded.eval() if is_script else move_to_device_pass(loaded, device).module()
    found = Exported(about, network, device, takes)
    if takes is not None:
        with torch.inference_mode():
            found.check(takes)
    return found


def _is_torchscript(content: bytes, about: str) -> bool:
    """Tell TorchScript from torch.export without running any of it; UserError for the rest."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = archive.namelist()
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{about}: neither a TorchScript nor a torch.export file, or not a whole one "
            f"({error}); {_SAVE}"
        ) from error
    if damaged:
        raise UserError(f"{about}: the file is damaged at {damaged}; get it again")
    if any("/code/" in file for file in files):
        return True
    if any(file.endswith(("models/model.json", "exported_program.json")) for file in files):
        return False
    raise UserError(
        f"{about}: neither a TorchScript nor a torch.export file (weights alone are no network); "
        f"{_SAVE}"
    )


def _declared(program: ExportedProgram, about: str) -> tuple[int, int, int] | None:
    """Return the shape (C, H, W) that an export is for, if it is for one; refuse a fixed batch."""
    inputs = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].dim() != 4:
        raise UserError(f"{about}: it must take one batch of images; export it by {_HOW}")
    if inputs[0].dtype != torch.uint8:
        raise UserError(f"{about}: it takes {inputs[0].dtype}, not uint8; export it by {_HOW}")
    batch, *shape = inputs[0].shape
    known = None if isinstance(batch, int) else program.range_constraints.get(batch.node.expr)
    # Unlimited is torch's own infinity, larger than any count of images.
    if known is None or bool(known.upper < 1 << 20):
        raise UserError(
            f"{about}: it takes batches of a fixed or limited size alone; export it with a "
            f"dynamic batch dimension: {_HOW}"
        )
    return (shape[0], shape[1], shape[2]) if all(isinstance(n, int) for n in shape) else None


def _trial(shape: Shape) -> Tensor:
    """Return three unlike images (3, C, H, W): noise, a ramp, and a dark one."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, shape, generator=generator)
    ramp = torch.linspace(0, 255, shape[-1]).expand(shape)
    return torch.stack([noise, ramp, torch.full(shape, 20)]).to(torch.uint8)


def _last_line(error: Exception) -> str:
    """Return where torch's long messages come to the point."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
