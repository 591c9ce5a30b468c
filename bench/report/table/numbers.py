"""Numbers written for people, and the marks that stand beside them."""

import math

NOTHING = "—"
MARK = "†"
"""Stands at times that were taken while the machine was not fit."""
UNBALANCED = "‡"
"""Stands at seconds of a ledger that does not sum to the wall clock."""

LARGEST, SMALLEST = 1e15, 1e-12
"""Numbers beyond these are written with their power of ten: in digits nobody could read them."""


def is_plain(*values: float) -> bool:
    """Whether numbers can be written in digits, those that are none or not finite left aside."""
    told = [abs(value) for value in values if math.isfinite(value) and value != 0]
    return all(SMALLEST <= value < LARGEST for value in told)


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, with a power of ten where it must be."""
    if math.isnan(value):
        return NOTHING
    if value == 0 or math.isinf(value):
        return f"{value:.0f}"
    if not is_plain(value):
        return f"{value:.{digits - 1}e}"
    # Rounded first: 0.9996 has three significant digits as 1.00, not as 1.000.
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{decimals}f}"


def percent(share: float) -> str:
    """Write a share in percent, with two significant digits."""
    return NOTHING if math.isnan(share) else f"{number(100 * share, 2)} %"


def plus_minus(mean: float, half: float) -> str:
    """Write a mean with its half-width, both to the half-width's second significant digit."""
    visible = math.isfinite(half) and half > abs(mean) * 1e-9
    return "{} ± {}".format(*_alike(mean, half)) if visible else number(mean, 4)


def _alike(value: float, width: float) -> tuple[str, str]:
    if not is_plain(value, width):
        return f"{value:.3e}", f"{width:.1e}"
    decimals = min(6, max(0, 1 - math.floor(math.log10(width))))
    return f"{value:.{decimals}f}", f"{width:.{decimals}f}"


def with_error(value: float, error: float) -> str:
    """Write a value of one seed with its standard error within it, told apart from ±."""
    visible = math.isfinite(error) and error > 0
    return "{} (se {})".format(*_alike(value, error)) if visible else number(value, 4)


def scaled(value: float, unit: str, half: float = float("nan")) -> str:
    """Write a large number with a prefix: 1.2e13 with ``FLOP`` as ``12.0 TFLOP``."""
    if math.isnan(value):
        return NOTHING
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        # 999.6e9 rounds up to three digits of the next prefix.
        if abs(value) >= 0.9995 * 10**power:
            text = with_half(value / 10**power, half / 10**power)
            return f"{text} {prefix}{unit}".rstrip()
    return f"{with_half(value, half)} {unit}".rstrip()


def with_half(value: float, half: float) -> str:
    """Write a value, with its half-width where that can be seen."""
    visible = not math.isnan(half) and half > abs(value) * 5e-4
    return plus_minus(value, half) if visible else number(value)


def size(value: float) -> str:
    """Write bytes as MiB or GiB."""
    if math.isnan(value):
        return NOTHING
    large = value >= 2**30
    return f"{number(value / (2**30 if large else 2**20))} {'GiB' if large else 'MiB'}"
