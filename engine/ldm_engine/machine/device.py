"""Names of devices: "cpu", or "gpu:N" for the GPU of that number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidArgumentError

KINDS = ("cpu", "gpu")
_NAME = re.compile(r"(?P<kind>cpu|gpu)(?::(?P<index>[0-9]{1,3}))?")


@dataclass(frozen=True)
class Device:
    """Where programs run."""

    kind: str = "cpu"  #: one of ``KINDS``
    index: int = 0  #: of the GPU

    @classmethod
    def parse(cls, name: object) -> Device:
        """The device called `name`; "gpu" alone is the first one.

        Raises:
            InvalidArgumentError: if no device has that name.
        """
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None or (match["kind"] == "cpu" and match["index"]):
            raise InvalidArgumentError(
                f"`device` is {name!r}; cpu, or gpu:0, gpu:1, ... is accepted."
            )
        return cls(match["kind"], int(match["index"] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"
