"""JSON objects with named fields: frozen dataclasses that keep what they do not know."""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class JsonRecord:
    """One JSON object. Subclasses name its fields; those without a default must be there."""

    extra: dict[str, Any] = field(default_factory=dict)
    """Fields without a name here, such as those of a newer version: kept from reading to writing."""

    @classmethod
    def from_json(cls, values: Any, origin: str) -> Self:
        """Make a record of a parsed JSON object.

        Args:
            values: what json.loads returned.
            origin: where it comes from, for the error: a path, or a path and a row.

        Raises:
            ValueError: it is not an object, or lacks a required field.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{origin} is not an object: {str(values)[:80]}")
        names, required = _field_names(cls)
        missing = [name for name in required if name not in values]
        if missing:
            raise ValueError(f"{origin} has no {', '.join(missing)}; restore it from a copy, or remove it")
        extra = {name: value for name, value in values.items() if name not in names}
        return cls(extra=extra, **{name: value for name, value in values.items() if name in names})

    def to_json(self) -> dict[str, Any]:
        """Return the object as `from_json` reads it."""
        names, _ = _field_names(type(self))
        return {name: getattr(self, name) for name in names} | self.extra


def _field_names(record: type[JsonRecord]) -> tuple[dict[str, None], tuple[str, ...]]:
    """Return (every named field, in order, as the keys of a dict; the required ones)."""
    named = [entry for entry in fields(record) if entry.name != "extra"]
    required = [entry.name for entry in named if entry.default is entry.default_factory is MISSING]
    return dict.fromkeys(entry.name for entry in named), tuple(required)
