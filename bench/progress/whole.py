"""How far all cells are together, and the time left, from what cells have taken so far."""

from collections.abc import Sequence


def clock(seconds: float) -> str:
    """Write seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(fraction: float, start: float, elapsed: float) -> str:
    """Estimate the time left of a phase that began at fraction ``start``; empty if too early."""
    if not 0.01 < fraction - start < 1 or fraction >= 1:
        return ""
    return f"{clock(elapsed * (1 - fraction) / (fraction - start))} left"


class Whole:
    """The cells of one command: how many are done, and how long each of these took."""

    def __init__(self, cells: Sequence[str] = (), done: int = 0, jobs: int = 1) -> None:
        self.waiting, self.done, self.jobs = list(cells), done, jobs
        self.total = done + len(cells)
        self.began: dict[str, float] = {}
        """When the running cells began."""
        self.took: dict[str, list[float]] = {}
        """Seconds of the cells that have ended, by method."""

    def start(self, cell: str, moment: float) -> None:
        """A cell began."""
        self.began[cell] = moment
        if cell in self.waiting:
            self.waiting.remove(cell)

    def end(self, cell: str, moment: float) -> None:
        """A cell ended, however it did."""
        self.took.setdefault(method_of(cell), []).append(moment - self.began.pop(cell, moment))
        self.done += 1

    def left(self, moment: float) -> float | None:
        """Seconds until the last cell's end; ``None`` where none has ended yet.

        A cell takes what those of its method took on average, or of all methods.
        """
        known = [seconds for found in self.took.values() for seconds in found]
        if not known:
            return None

        def expected(cell: str) -> float:
            found = self.took.get(method_of(cell), known)
            return sum(found) / len(found)

        running = [max(0.0, expected(cell) - moment + began) for cell, began in self.began.items()]
        waiting = [expected(cell) for cell in self.waiting]
        return max([(sum(running) + sum(waiting)) / self.jobs, *running, *waiting])

    def text(self, moment: float) -> str:
        """Write ``2 of 12 cells  3:20 left``."""
        seconds, told = self.left(moment), f"{self.done} of {self.total} cells"
        return told if seconds is None else f"{told}  {clock(seconds)} left"


def method_of(cell: str) -> str:
    """Return a cell's method, by its folder's name."""
    return cell.rpartition("-seed")[0]
