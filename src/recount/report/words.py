"""What the page says that is not computed: labels with hints, sentences and captions, read from words.yaml."""

from pathlib import Path
from typing import Any

import yaml

WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def said(text: str, **values: object) -> str:
    """Return one of the texts with values at its {places}."""
    return str(WORDS["texts"][text]).format(**values)
