"""The log ``ldm_engine``: what the engine does, for applications that listen; silent otherwise.

logging.getLogger("ldm_engine").setLevel(logging.INFO)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger("ldm_engine")
LOG.addHandler(logging.NullHandler())  # so that Python prints nothing where no one listens
if LOG.level == logging.NOTSET:  # else what Paddle does to the root logger prints INFO
    LOG.setLevel(logging.WARNING)


@contextmanager
def timed(event: str, *values: object) -> Iterator[None]:
    """Log an `event` when the block has ended without an error, and how long it took."""
    start = time.perf_counter()
    yield
    LOG.info(f"{event} in %.2f s", *values, time.perf_counter() - start)
