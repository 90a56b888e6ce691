"""Takes values out of one raw config; what cannot be used goes into one error, what is unknown
into one warning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from ldm_engine.errors import ConfigError

#: Far beyond any model of the family; a larger number is a mistake that would take all memory.
MAX_WIDTH = 1_000_000

#: The values that leave a switch off.
OFF = (False, None)


class ConfigReader:
    """Reads one raw config and gathers every violation for a single message."""

    def __init__(self, component: str, raw: Mapping[str, Any]) -> None:
        self.component = component
        # diffusers takes its own defaults for the keys that this list names, whatever they hold.
        unsaid = raw.get("_use_default_values")
        unsaid = unsaid if isinstance(unsaid, list) else []
        self.raw = {k: v for k, v in raw.items() if not k.startswith("_") and k not in unsaid}
        self.seen: set[str] = set()
        self.violations: list[str] = []

    def integer(self, key: str, default: int, maximum: int = MAX_WIDTH) -> int:
        """A whole number from 1 on."""
        value = self._take(key, default)
        if type(value) is not int or not 1 <= value <= maximum:
            accepted = f"an integer from 1 to {maximum} is accepted"
            self.violations.append(f"`{key}` is {value!r}; {accepted}")
            return 1
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of such numbers."""
        value = self._take(key, list(default))
        good = isinstance(value, (list, tuple)) and len(value) > 0
        if not good or any(type(v) is not int or not 1 <= v <= MAX_WIDTH for v in value):
            accepted = f"a list of integers from 1 to {MAX_WIDTH} is accepted"
            self.violations.append(f"`{key}` is {value!r}; {accepted}")
            return default
        return tuple(value)

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self._take(key, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            self.violations.append(f"`{key}` is {value!r}; a positive number is accepted")
            return default
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """A switch; null, 0 and 1 are what Python takes them for."""
        value = self._take(key, default)
        if value not in (None, False, True):
            self.violations.append(f"`{key}` is {value!r}; true or false is accepted")
        return bool(value)

    def choices(
        self, key: str, accepted: tuple[str, ...], default: tuple[str, ...]
    ) -> tuple[str, ...]:
        """A list of names that are known."""
        value = self._take(key, list(default))
        if not isinstance(value, (list, tuple)) or any(v not in accepted for v in value):
            allowed = " or ".join(accepted)
            self.violations.append(f"`{key}` is {value!r}; a list of {allowed} is accepted")
            return default
        return tuple(value)

    def one_of(self, key: str, accepted: tuple[int, ...], default: int) -> int:
        """One of a few numbers."""
        value = self._take(key, default)
        if value not in accepted:
            allowed = " or ".join(map(repr, accepted))
            self.violations.append(f"`{key}` is {value!r}; {allowed} is accepted")
            return default
        return int(value)

    def lower(self, key: str) -> None:
        """Take the name that `key` holds in lower case, as the libraries do."""
        if isinstance(self.raw.get(key), str):
            self.raw[key] = self.raw[key].lower()

    def one_for_all(self, keys: Collection[str], levels: int) -> None:
        """Where a key of `keys` holds a list with the same value for each level, take that one."""
        for key in keys:
            value = self.raw.get(key)
            if (
                isinstance(value, (list, tuple))
                and len(value) == levels
                and all(type(v) is type(value[0]) and v == value[0] for v in value)
            ):
                self.raw[key] = value[0]

    def require(self, holds: bool, message: str) -> None:
        """Add `message` to the violations unless it `holds`."""
        if not holds:
            self.violations.append(message)

    def finish(self, fixed: Mapping[str, tuple[Any, ...]], free: Collection[str]) -> None:
        """Check the keys that were not taken: `fixed` ones have given values, `free` ones any.

        Raises:
            ConfigError: on any violation.

        Warns:
            UserWarning: naming the keys that are none of these.
        """
        for key, accepted in fixed.items():
            if key in self.raw and self.raw[key] not in accepted:
                allowed = " or ".join(repr(a) for a in accepted)
                self.violations.append(f"`{key}` is {self.raw[key]!r}; {allowed} is accepted")
        if self.violations:
            listing = "\n".join(f"  - {v}" for v in self.violations)
            raise ConfigError(
                f"The {self.component} config is not one this engine can run:\n{listing}\n"
                "Only models of the CompVis/ldm-text2im-large-256 family are exported; "
                "check that the checkpoint is of that family."
            )
        warn_of_unknown(self.component, self.raw.keys() - self.seen - fixed.keys() - set(free))

    def _take(self, key: str, default: Any) -> Any:
        self.seen.add(key)
        return self.raw.get(key, default)


def warn_of_unknown(component: str, keys: Collection[str]) -> None:
    """Name the keys of a config that no version of its class reads, so that nobody misses them."""
    if keys:
        names = ", ".join(f"`{key}`" for key in sorted(keys))
        warnings.warn(
            f"The {component} config has keys that its class does not read, and they are ignored: "
            f"{names}.",
            stacklevel=2,
        )
