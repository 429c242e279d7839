"""Numbers as people read them."""

from __future__ import annotations

MINUS = "−"


def count(number: int) -> str:
    """Return `1,492,310`."""
    return f"{number:,}"


def magnitude(number: float) -> str:
    """Return `2.16 G`, `13.4 M`, `1.5 k`, `940`: three digits and a prefix of 1000s."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale * 0.9995:
            return f"{_three(number / scale)} {prefix}"
    return f"{number:.0f}"


def size(number: int) -> str:
    """Return `10.3 MiB`: binary units, three digits."""
    for scale, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(number) >= scale:
            return f"{_three(number / scale)} {unit}"
    return f"{number} B"


def share(ratio: float) -> str:
    """Return `37.5%`; what is not quite none or all is not told as such."""
    percent = 100 * ratio
    if 0 < percent < 0.05:
        return "<0.1%"
    if 99.95 < percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%" if percent % 100 else f"{percent:.0f}%"


def change(before: int, after: int) -> str:
    """Return `−31%`; nothing where the two are equal or nothing was there before."""
    if before == after or not before:
        return ""
    percent = 100 * (after - before) / before
    digits = f"{abs(percent):.0f}" if abs(percent) >= 1 else f"{abs(percent):.2g}"
    if abs(percent) > 99 and after:
        digits = f"{abs(percent):.4g}"
    return f"{MINUS if percent < 0 else '+'}{digits}%"


def small(number: float) -> str:
    """Return an error or a value in two digits: `0.0031`, `1.2e-06`."""
    return f"{number:.2g}"


def plural(number: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _three(number: float) -> str:
    digits = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}"
