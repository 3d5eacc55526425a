"""What the authors' code or text trains with, and where recount differs (``official.yaml``), for the report's table."""

from typing import Any, Self

from pydantic import Field, model_validator

from recount.settings.base import Name, Strict


class Deviation(Strict):
    """An official value that is not ours, or that is said in words."""

    official: Any = Field(description="the value, or words where it is none that recount has")
    ours: Any
    why: str = Field(min_length=1)
    source: str = Field("", description="where it stands, if not in the system's source")


class Official(Strict):
    """A system's official recipe: keys of a resolved run at paper size, with a plain value or a ``Deviation``."""

    source: str = Field(min_length=1, description="<repository>@<commit>: files")
    values: dict[str, Any]
    variants: dict[Name, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _deviations(self) -> Self:
        for table in (self.values, *self.variants.values()):
            for key, value in table.items():
                if isinstance(value, dict):
                    table[key] = Deviation.model_validate(value)
        return self

    def of(self, variant: str) -> dict[str, Deviation]:
        """Return a variant's values by key; a plain one is ours, too."""
        return {
            key: value if isinstance(value, Deviation) else Deviation(official=value, ours=value, why="as there")
            for key, value in {**self.values, **self.variants.get(variant, {})}.items()
        }
