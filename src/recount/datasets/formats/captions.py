"""Which number a caption names, by the rule of CountCLIP's training set.

Checked against count_set_gen.ipynb of SforAiDl/CountCLIP@a15672d (golden case ``filter``).
"""

from __future__ import annotations

import re

NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_WORD = re.compile(rf"\b({'|'.join(NUMBERS)})\b", re.IGNORECASE)


def number_in_caption(caption: str) -> int | None:
    """Return the largest number, two to ten, that a caption names as a whole word in any case, or None."""
    return max((NUMBERS[word.lower()] for word in _WORD.findall(caption)), default=None)
