"""Rendering on a Ray cluster: batches through Ray Data, actors that hold the bundle; an extra."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

from ..errors import InvalidArgumentError, LDMEngineError, last_lines
from ..machine.signals import current_handlers, install
from .places import open_storage
from .plan import Batch
from .records import Outcome
from .renderer import Commit, Renderer, RendererSettings

#: Batches given to Ray at a time; the driver holds no more, and actors load the bundle once for it.
_AT_A_TIME = 2000
_POLL_S = 1.0  # how often a run without outcomes looks whether it is to stop
_SOON_S = 0.05  # until it is connected, when Ray's C++ code may take a signal
_ANSWER_S = 10.0

Row = TypeVar("Row")


class _Run:
    """An actor that knows whether the run is to stop, and how many of the others render."""

    def __init__(self) -> None:
        self._stops = False
        self._rendering = 0

    def begin(self) -> bool:
        """Whether a batch may be begun; if so, it counts until its ``end``."""
        self._rendering += not self._stops
        return not self._stops

    def end(self) -> None:
        self._rendering -= 1

    def stop(self) -> int:
        """Let no further batch begin; returns how many are being rendered."""
        self._stops = True
        return self._rendering


class RenderBatches:
    """The actor: loads the bundle once and renders a batch a call, none once `run` is to stop."""

    def __init__(self, settings: RendererSettings, output: str, label: str, run: Any) -> None:
        self._renderer = Renderer(settings, open_storage(output, label))
        self._run = run

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Outcomes of the pickled batch in the column ``batch``, pickled again."""
        (batch,) = (pickle.loads(content) for content in rows["batch"])
        if not import_ray().get(self._run.begin.remote()):
            return {"outcomes": [pickle.dumps([])]}
        try:
            (outcomes,) = self._renderer.render([batch], lambda outcomes: None)
        finally:
            self._run.end.remote()
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
    """Render with `actors` on the cluster at `address`, or at RAY_ADDRESS, or on one started here.

    The actors write the images, so they must see `output` and the bundle under the same path. Where
    the run is to stop, batches that are being rendered are finished, and the others passed through.

    Raises:
        InvalidArgumentError: if the cluster's nodes have no room for so many actors.
        LDMEngineError: if Ray is not installed, not to be reached, or an actor fails.
    """
    ray = import_ray()
    was_running = ray.is_initialized()  # of the caller's own
    handlers = current_handlers()  # Ray takes SIGTERM
    run: Any = None
    ended = Event()

    def nothing_comes() -> bool:
        """Whether the run is to stop and no batch is being rendered."""
        if not should_stop():
            return False
        try:
            return run is None or not ray.get(run.stop.remote(), timeout=_ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            return True

    def nothing_comes_yet() -> bool:
        install(handlers)
        return nothing_comes()

    try:
        connected = _awaited(lambda: _connected(ray, address, ended), nothing_comes_yet, _SOON_S)
        for _ in islice(connected, 1):
            install(handlers)
            _check_room(ray, actors, settings.options.threads)
            run = ray.remote(num_cpus=0)(_Run).remote()
        while run is not None and (part := list(islice(batches, _AT_A_TIME))):
            rows = [{"batch": pickle.dumps(batch)} for batch in part]
            done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                RenderBatches,
                fn_constructor_args=(settings, output, label, run),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_cpus=settings.options.threads,
            )
            for row in _awaited(done.iter_rows, nothing_comes, _POLL_S):
                if should_stop():
                    run.stop.remote()
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
        if not was_running and ray.is_initialized():
            ray.shutdown()
        ended.set()


def _connected(ray: Any, address: str | None, ended: Event) -> Iterator[None]:
    """One item, when Ray is there; the processes that it starts live as long as their thread."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    ray.init(
        address=address,
        ignore_reinit_error=True,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **own,
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ended.wait()


def _check_room(ray: Any, actors: int, threads: int) -> None:
    """Refuse what Ray would wait for without end: actors for which no node has the CPUs."""
    cpus = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
    room = sum(count // threads for count in cpus)
    if room < actors:
        raise InvalidArgumentError(
            f"`workers` leads to {actors} actors of {threads} threads each; the nodes of the Ray "
            f"cluster have {', '.join(map(str, sorted(cpus)))} CPUs, with room for {room}. "
            f"{'Fewer workers' if room else 'Fewer threads'} are accepted, or start more nodes."
        )


def _awaited(
    read: Callable[[], Iterable[Row]], is_over: Callable[[], bool], period: float
) -> Generator[Row, None, None]:
    """What `read` gives, in a thread: ends also if nothing comes for a `period` and `is_over`."""
    found: SimpleQueue[Any] = SimpleQueue()

    def put_all() -> None:
        try:
            for row in read():
                found.put((row, None))
            found.put((None, StopIteration()))
        except BaseException as error:
            found.put((None, error))

    Thread(target=put_all, daemon=True).start()
    while True:
        try:
            row, error = found.get(timeout=period)
        except Empty:
            if is_over():
                return
            continue
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield row


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
