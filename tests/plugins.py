"""Methods that go wrong on purpose, installed as a plug-in distribution on a path of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CODE = '''
"""Methods that go wrong on purpose."""

import os
import signal
import time

import torch

from methods.sde import SDE


def cache():
    """The cache of the job that is done in this process."""
    import json
    import sys
    from pathlib import Path
    return Path(json.loads(Path(sys.argv[1]).read_text())["cache"])


class Faulty(SDE):
    """A baseline with a fault after some steps."""

    steps = 0

    def fault(self):
        pass

    def loss(self, batch):
        self.steps += 1
        if self.steps > 6:
            self.fault()
        return super().loss(batch)


class Raises(Faulty):
    """Raises in its loss."""
    name = "raises"

    def fault(self):
        raise RuntimeError("a planted fault\\nof two lines")


class Diverges(Faulty):
    """Gives NaN as its loss."""
    name = "diverges"

    def loss(self, batch):
        return super().loss(batch) * (float("nan") if self.steps > 6 else 1.0)


class Killed(Faulty):
    """Is killed as by the kernel when memory is short."""
    name = "killed"

    def fault(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Faulty):
    """Never comes back, and does not heed a request to stop."""
    name = "hangs"

    def fault(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)


class Sleeps(Faulty):
    """Does not come back from a step for an hour, but would heed a request to stop after it."""
    name = "sleeps"

    def fault(self):
        print("asleep", flush=True)
        time.sleep(3600)


class Hoards(Faulty):
    """Takes ever more memory."""
    name = "hoards"
    hoard = ()

    def fault(self):
        while True:
            self.hoard = (*self.hoard, torch.ones(4 << 20))
            time.sleep(0.005)


class Crashes(Faulty):
    """Reads where there is no memory."""
    name = "crashes"

    def fault(self):
        import ctypes
        ctypes.string_at(0)


class Fills(Faulty):
    """Fills the disk of the results, until its process ends."""
    name = "fills"

    def fault(self):
        import atexit
        filler = cache() / "filler"
        atexit.register(filler.unlink, missing_ok=True)
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass
        self.steps = -(10**9)


class Blind(Faulty):
    """Loses the images that it learns from, which it reads from their file."""
    name = "blind"

    def __init__(self, config, data):
        super().__init__(config, data)
        from bench import training
        training.Feed.__init__.__kwdefaults__["resident"] = 0

    def fault(self):
        for path in (cache() / "prepared").rglob("*"):
            if path.is_file() and path.stat().st_size > 10**5:
                os.truncate(path, 0)


class Exits(Faulty):
    """Ends its process without a word."""
    name = "exits"

    def fault(self):
        os._exit(3)


class Unfit(SDE):
    """Samples what is not finite."""
    name = "unfit"

    def sample(self, n, *, labels=None, generator):
        return torch.full((n, *self.data.shape), float("inf"))
'''

NAMES = ("raises", "diverges", "killed", "hangs", "exits", "unfit", "crashes", "hoards")
OTHERS = ("sleeps", "fills", "blind")
"""Faults that tests of their own bring about."""


def install(folder: Path) -> Path:
    """Write the plug-in into ``folder``, to be put on PYTHONPATH; return the folder."""
    points = [f"{name} = faulty_methods:{name.capitalize()}" for name in NAMES + OTHERS]
    points += ["broken = no_such_module:Method", "wrong = faulty_methods:CODE_IS_NOT_HERE"]
    return install_as(folder, "faulty_methods", CODE, points)


def install_as(folder: Path, module: str, code: str, points: Sequence[str]) -> Path:
    """Write a module and a distribution of its name that has these entry points."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-0.1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("\n".join(["[bench.methods]", *points, ""]))
    return folder
