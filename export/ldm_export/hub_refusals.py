"""What the Hugging Face hub's client says of failures and retries, in words for a user."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from .progress import Progress

REASON_CHARACTERS = 600
TOKEN = "set HF_TOKEN to a token that may read it, or run `hf auth login`"

# What its module for requests logs of an attempt that failed, and of the next one.
RETRIES = re.compile(r"thrown while requesting|Retrying in|before retry")
RETRYING_LOGGER = "huggingface_hub.utils._http"


def failure_of(error: Exception, repository: str) -> tuple[str, str]:
    """What happened, with the hub's own reason, and what to do."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    said = re.sub(r"\s*\(Request ID: [^)]*\)", "", str(error))
    reason = " ".join(said.split())[:REASON_CHARACTERS].rstrip(".") or "no reason given"
    failure = (
        f"`{repository}` could not be fetched from the Hugging Face hub "
        f"({type(error).__name__}: {reason})"
    )
    if isinstance(error, OfflineModeIsEnabled):
        return failure, "Unset HF_HUB_OFFLINE to download it, or pass a local path."
    status = getattr(getattr(error, "response", None), "status_code", None)
    remedies = {
        401: f"Check the id. If the repository is private or gated, {TOKEN}.",
        403: f"Ask for access on the repository's page, and {TOKEN}.",
        404: f"Check the id and the revision. If the repository is private, {TOKEN}.",
    }
    return failure, remedies.get(
        status or 0,
        "Check the id and the network, pass a local path, or use the other hub, paddlenlp.",
    )


class _OneRetry(logging.Filter):
    """Reports the first retry, and keeps the client from logging any."""

    def __init__(self, report: Progress) -> None:
        super().__init__()
        self._report: Progress | None = report

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is to be logged."""
        text = record.getMessage()
        if not RETRIES.search(text):
            return True
        if self._report is not None:
            self._report(
                f"The hub is asked again, as often as its client does ({text.rstrip('.')})."
            )
            self._report = None
        return False


@contextmanager
def reported_retries(report: Progress) -> Iterator[None]:
    """A block in which retries of the hub's client are reported once."""
    logger = logging.getLogger(RETRYING_LOGGER)
    once = _OneRetry(report)
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)
