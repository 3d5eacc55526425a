"""How the report writes numbers: three to four significant digits, a real minus sign, units where they help."""

import math

MISSING = "–"


def in_a_sentence(label: str) -> str:
    """Return a metric's label as it stands within a sentence: MAE, but accuracy."""
    return label if label.isupper() else label[:1].lower() + label[1:]


def present(value: float | None) -> bool:
    """Return whether there is a finite number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, like: float | None = None) -> str:
    """Write a number with the digits that an error deserves, or that ``like`` has; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value if like is None or not math.isfinite(like) else like)
    if size >= 1e5:
        return _signed(f"{value:.3g}" if size >= 1e9 else f"{value:,.0f}".replace(",", "\u202f"))
    digits = 1 if size >= 100 else 2 if size >= 1 else 3 if size >= 0.01 else 5
    return "0" if value == 0 else _signed(f"{value:.{digits}f}")


def count(value: float | None) -> str:
    """Write a number of objects: whole if it is whole or large, else with one decimal."""
    if value is None or not math.isfinite(value):
        return MISSING
    whole = value == round(value) or abs(value) >= 100
    return _signed(f"{value:,.0f}".replace(",", "\u202f") if whole else f"{round(value, 1) + 0.0:.1f}")  # no minus zero


def signed(value: float | None) -> str:
    """Write a difference with its sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    return number(value) if value <= 0 else f"+{number(value)}"


def signed_to(value: float, digits: int) -> str:
    """Write a difference with its sign and so many decimals."""
    return _signed(f"{value:+.{digits}f}")


def percent(share: float | None, digits: int = 0) -> str:
    """Write a share as per cent."""
    if share is None or not math.isfinite(share):
        return MISSING
    rounded = round(100 * share, digits) + 0.0  # no minus zero
    return _signed(f"{rounded:.{digits}f} %")


def interval(low: float | None, high: float | None, like: float | None = None) -> str:
    """Write an interval, with as many digits as ``like`` deserves, or nothing where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, like)} to {number(high, like)}"


def big(value: float | None) -> str:
    """Write a large number with a metric prefix: 20.7 M."""
    if value is None or not math.isfinite(value):
        return MISSING
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {prefix}"
    return number(value) if value % 1 else f"{value:.0f}"


def off_by(true: float, predicted: float) -> str:
    """Write by how much a count is off, with its sign and as a share of the true count."""
    error = predicted - true
    plus = "+" if error > 0 else ""
    return f"{plus}{count(error)}" + (f" ({plus}{percent(error / true)})" if true else "")


def seconds(value: float | None) -> str:
    """Write a duration with the unit that suits it."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value >= 2 * 3600:
        return f"{value / 3600:.1f} h"
    if value >= 180:
        return f"{value / 60:.1f} min"
    if value >= 1 or value == 0:
        return f"{value:.1f} s" if value else "0"
    return f"{1000 * value:.3g} ms"


def megabytes(value: float | None) -> str:
    """Write an amount of memory given in MB."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value / 1000:.1f} GB" if value >= 1000 else f"{value:.0f} MB"


def _signed(text: str) -> str:
    return text.replace("-", "−")
