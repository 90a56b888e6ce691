"""Rendering on a Ray cluster: batches through Ray Data, actors that hold the bundle; an extra."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any

from ..errors import LDMEngineError, last_lines
from ..machine.signals import handlers_kept
from .places import open_storage
from .plan import Batch
from .records import Outcome
from .renderer import Commit, Renderer, RendererSettings

#: Batches given to Ray at a time; the driver holds no more, and actors load the bundle once for it.
_AT_A_TIME = 2000


class _Stop:
    """An actor that the others ask whether the run is to stop."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


class RenderBatches:
    """The actor: loads the bundle once and renders a batch a call, none once `stop` is set."""

    def __init__(self, settings: RendererSettings, output: str, label: str, stop: Any) -> None:
        self._renderer = Renderer(settings, open_storage(output, label))
        self._stop = stop

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Outcomes of the pickled batch in the column ``batch``, pickled again."""
        (batch,) = (pickle.loads(content) for content in rows["batch"])
        if import_ray().get(self._stop.is_set.remote()):
            return {"outcomes": [pickle.dumps([])]}
        (outcomes,) = self._renderer.render([batch], lambda outcomes: None)
        return {"outcomes": [pickle.dumps(list(outcomes))]}


def render_with_ray(
    settings: RendererSettings,
    output: str,
    label: str,
    actors: int,
    address: str | None,
    batches: Iterator[Batch],
    commit: Commit,
    should_stop: Callable[[], bool],
) -> Generator[Sequence[Outcome], None, None]:
    """Render with `actors` on the cluster at `address`, or on one of this machine's own.

    The actors write the images, so they must see `output` and the bundle under the same path. Where
    the run is to stop, batches that Ray has already are passed through without being rendered.

    Raises:
        LDMEngineError: if Ray is not installed, not to be reached, or an actor fails.
    """
    ray = import_ray()
    was_running = ray.is_initialized()  # of the caller's own
    try:
        with handlers_kept():
            ray.init(
                address=address,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else {"include_dashboard": False}),
            )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        stop = ray.remote(num_cpus=0)(_Stop).remote()
        while part := list(islice(batches, _AT_A_TIME)):
            rows = [{"batch": pickle.dumps(batch)} for batch in part]
            done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                RenderBatches,
                fn_constructor_args=(settings, output, label, stop),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_cpus=settings.options.threads,
            )
            for row in done.iter_rows():
                if should_stop():
                    stop.set.remote()
                if outcomes := pickle.loads(row["outcomes"]):
                    commit(outcomes)
                    yield outcomes
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        if isinstance(error, LDMEngineError):
            raise
        cause = getattr(error, "cause", None) or error
        raise LDMEngineError(
            f"Ray stopped the run: {last_lines(cause, most=500)}. What is "
            "finished is kept: mend the cluster and start the same command again."
        ) from error
    finally:
        if not was_running:
            ray.shutdown()


def import_ray() -> Any:
    """Ray with Ray Data.

    Raises:
        LDMEngineError: if it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LDMEngineError(
            f"Ray cannot be imported: {error}. Install it with: pip install 'ldm-engine[ray]'"
        ) from error
    return ray
