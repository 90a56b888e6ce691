"""A process that uses one runtime, forks and gets signals: prints how each scene ended, as JSON."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from ldm_engine import LDMEngineError, LDMTextToImagePipeline

DEADLINE_S = 60  # after which a child that hangs is ended by SIGALRM


def main(bundle: str, runtime: str) -> None:
    def make(**options: object) -> LDMTextToImagePipeline:
        return LDMTextToImagePipeline.from_pretrained(bundle, runtime=runtime, **options)

    def draw(pipe: LDMTextToImagePipeline) -> None:
        pipe("a red circle", num_inference_steps=1, seed=0)

    pipe, lazy = make(), make(memory="sequential")
    draw(pipe)
    draw(lazy)
    scenes: dict[str, Callable[[], object]] = {
        "exit": lambda: None,
        "drop": lambda: (owned.clear(), gc.collect()),
        "close": lambda: ([p.close() for p in owned], owned.clear(), gc.collect()),
        "use": lambda: draw(pipe),
        "use sequential": lambda: draw(lazy),
        "clone": pipe.clone,
        "leave a block": lambda: pipe.__exit__(None, None, None),
        "open": lambda: draw(make()),
    }
    owned = [pipe, lazy]
    ended = {name: _in_child(scene) for name, scene in scenes.items()}
    ended["in use"] = _while_rendering(pipe, pipe.clone(), lambda: draw(pipe))
    draw(pipe)  # the parent goes on
    for one in owned:
        one.close()
    owned.clear()
    pipe = lazy = None
    gc.collect()
    ended["open after close"] = _in_child(lambda: draw(make()))
    thread = threading.Thread(target=lambda: draw(make()))
    thread.start()
    thread.join()
    draw(make())
    gc.collect()
    ended["signals"] = _signals()
    print(json.dumps(ended))


def _in_child(scene: Callable[[], object]) -> str:
    """What a forked child does, and that it ends as a process should."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(DEADLINE_S)
        try:
            scene()
            said = "done"
        except LDMEngineError as error:
            said = type(error).__name__
        except BaseException:
            said = traceback.format_exc()
        os.write(write, said.encode())
        sys.exit(0)  # through all that Python and the libraries do at the end
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if code == 0 else f"{said} then {code}"


def _while_rendering(
    pipe: LDMTextToImagePipeline, twin: LDMTextToImagePipeline, use: Callable[[], object]
) -> str:
    """A fork while this thread has a pipeline in use, and another thread a clone of it."""
    stop, started = threading.Event(), threading.Event()

    def callback(*_: object) -> bool:
        started.set()
        return stop.is_set()

    def loop() -> None:
        twin("x", num_inference_steps=1000, seed=0, callback_on_step_end=callback)

    thread = threading.Thread(target=loop)
    thread.start()
    started.wait()
    ended = []
    pipe(
        "a star",
        num_inference_steps=1,
        callback_on_step_end=lambda *_: ended.append(_in_child(use)),
    )
    stop.set()
    thread.join()
    return ended[0]


def _signals() -> list[str]:
    got = []
    for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
        os.kill(os.getpid(), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever began this may ignore
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        got.append("KeyboardInterrupt")
    return got


if __name__ == "__main__":
    main(*sys.argv[1:])
