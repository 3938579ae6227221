"""How numbers are written for people: true minus signs, no false digits, the units things are talked about in."""

from __future__ import annotations

import math
from datetime import datetime

MINUS, DASH, THIN_SPACE = "\u2212", "\u2013", "\u202f"
MOST_DECIMALS = 6
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def number(value: float, decimals: int) -> str:
    """A number with ``decimals`` places and thin spaces between thousands.

    What that would make too long, or nothing at all, is written with a power of ten.

    >>> number(-0.12345, 3), number(float("nan"), 3), number(3.2e9, 1), number(4e-9, 6)
    ('−0.123', '–', '3.2e9', '4e−9')
    """
    if not math.isfinite(value):
        return DASH
    if abs(value) >= 1e7 or (decimals >= MOST_DECIMALS and 0.0 < abs(value) < 10.0**-decimals):
        return short(value)
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", MINUS).replace(",", THIN_SPACE)


def signed(value: float, decimals: int) -> str:
    """A number with its sign, plus included; what rounds to zero has none.

    >>> signed(0.5, 2), signed(-0.5, 2), signed(-0.0001, 2)
    ('+0.50', '−0.50', '0.00')
    """
    written = number(value, decimals)
    return f"+{written}" if value > 0.0 and written.strip("0.") else written


def short(value: float, digits: int = 3) -> str:
    """A number to so many digits, with a power of ten where it is far from one.

    >>> short(0.00032), short(3.2e-05), short(1000.0), short(-2.5e7)
    ('0.00032', '3.2e−5', '1000', '−2.5e7')
    """
    if not math.isfinite(value):
        return DASH
    if digits <= 3 and 1000 <= abs(value) < 9999.5:
        return number(value, 0).replace(THIN_SPACE, "")
    written, _, power = f"{value:.{digits}g}".partition("e")
    return (f"{written}e{int(power)}" if power else written).replace("-", MINUS)


def p_value(value: float | None) -> str:
    """A p-value to two digits.

    >>> p_value(0.00977), p_value(0.25), p_value(1e-5), p_value(None)
    ('0.0098', '0.25', '< 0.001', '–')
    """
    if value is None or not math.isfinite(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """A length of time.

    >>> duration(0.0123), duration(3.456), duration(192), duration(7500)
    ('12 ms', '3.5 s', '3 min 12 s', '2 h 05 min')
    """
    if not math.isfinite(seconds):
        return DASH
    if seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def size(count: float) -> str:
    """Bytes in binary units.

    >>> size(512), size(93_184), size(5 * 2**20)
    ('512 B', '91 KiB', '5 MiB')
    """
    power = min(4, max(0, int(count).bit_length() - 1) // 10)
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def in_words(count: int) -> str:
    """A count in words up to ten.

    >>> in_words(3), in_words(12)
    ('three', '12')
    """
    return WORDS[count] if 0 <= count < len(WORDS) else str(count)


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "seed"), plural(7690, "parameter")
    ('1 seed', '7\u202f690 parameters')
    """
    return f"{number(count, 0)} {noun}{'' if count == 1 else 's'}"


def moment(iso: str) -> str:
    """An ISO 8601 time as a date and a time of day; what is none is shown as it is.

    >>> moment("2025-03-01T09:05:00+00:00"), moment("yesterday")
    ('1 March 2025, 09:05 UTC', 'yesterday')
    """
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = "" if time.tzinfo is None else f" {time.tzname()}"
    return f"{time.day} {time:%B %Y, %H:%M}{zone}"
