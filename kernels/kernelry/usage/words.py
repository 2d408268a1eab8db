"""Numbers as people write them."""

PERIODS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))

UNITS = ("bytes", "KB", "MB", "GB", "TB")


def quantity(size: int) -> str:
    """Return a number of bytes as people write it."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.{0 if unit == 0 else 2 if unit > 2 else 1}f} {UNITS[unit]}"


def period(seconds: float) -> str:
    """Return a time span as people say it, in the largest unit that it has two of."""
    size, unit = next((p for p in PERIODS if seconds >= 2 * p[0]), PERIODS[-1])
    return f"{seconds / size:.0f} {unit}"
