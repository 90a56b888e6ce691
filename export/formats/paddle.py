"""Writing a program for Paddle Inference: ``inference.json`` (PIR) and ``inference.pdiparams``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import paddle

from ldm_engine.bundle import FORMAT_FILES
from ldm_engine.errors import LDMEngineError

from ..programs import ProgramSpec


def write_paddle(spec: ProgramSpec, folder: Path) -> None:
    """Trace the program's layer and write it into `folder`.

    Parameters that the program does not use are left out. The layer itself is turned into a static
    one: it no longer runs as dygraph afterwards.

    Raises:
        LDMEngineError: if Paddle did not write what it should have.
    """
    spec.layer.eval()
    static = paddle.jit.to_static(spec.layer, input_spec=spec.input_specs(), full_graph=True)
    graph, weights = (folder / name for name in FORMAT_FILES["paddle"])
    paddle.jit.save(static, str(graph.with_suffix("")))
    for path in (graph, weights):
        if not path.is_file() or path.stat().st_size == 0:
            raise LDMEngineError(f"Paddle {paddle.__version__} wrote no {path.name} for {spec.name}.")
    _name_outputs(graph, [t.name for t in spec.outputs])


def _name_outputs(graph: Path, names: list[str]) -> None:
    """Give the program's outputs their own names; ``jit.save`` calls them ``fetch_name_0``, ..."""
    program = json.loads(graph.read_text())
    found = 0
    for fetch in _operations(program, "1.fetch"):
        attributes = {a["N"]: a["AT"] for a in fetch["A"]}
        attributes["name"]["D"] = names[attributes["col"]["D"]]
        found += 1
    if found != len(names):
        raise LDMEngineError(
            f"{graph.name} has {found} outputs where {len(names)} were traced; this version of "
            f"Paddle ({paddle.__version__}) writes programs in a way that is not known yet."
        )
    graph.write_text(json.dumps(program, separators=(",", ":")))


def _operations(node: Any, kind: str) -> list[dict[str, Any]]:
    """Every operation of one kind in a PIR program's JSON."""
    if isinstance(node, list):
        return [op for item in node for op in _operations(item, kind)]
    if not isinstance(node, dict):
        return []
    if node.get("#") == kind:
        return [node]
    return [op for item in node.values() for op in _operations(item, kind)]
