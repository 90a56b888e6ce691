"""Writing a program for Paddle Inference: ``inference.json`` (PIR) and ``inference.pdiparams``.

``paddle.jit.save`` says nothing when it could not write everything, so its files are read back and
judged by what they hold.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

import ldm_export
from ldm_engine.bundle.formats import FORMAT_FILES
from ldm_engine.errors import LDMEngineError, OutputError

from ..programs import ProgramSpec
from ..tracing import call_with
from ..weights import halve


def write_paddle(spec: ProgramSpec, folder: Path, weights: str = "fp32") -> None:
    """Trace the program's layer and write it into `folder`.

    Parameters that the program does not use are left out. The layer itself is turned into a static
    one: it no longer runs as dygraph afterwards, unlike the models that it holds.

    Args:
        spec: the program.
        folder: exists.
        weights: "fp32", or "fp16" to store matrices and kernels in half precision; Paddle casts
            them to fp32 when it loads the program.

    Raises:
        OutputError: if a file came out short, as on a full disk.
        LDMEngineError: if Paddle wrote a program of another form than expected.
    """
    graph, data = (folder / name for name in FORMAT_FILES["paddle"])
    layer, specs = spec.layer, spec.input_specs()
    if weights == "fp16":
        layer, specs = _HalvedWeights(spec), [specs]
    layer.eval()
    # No value in our functions decides what is computed: they need not be rewritten for that.
    paddle.jit.ignore_module([ldm_export])
    static = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
    paddle.jit.save(static, str(graph.with_suffix("")))
    try:
        program = json.loads(graph.read_bytes())
    except (OSError, ValueError) as error:
        raise _incomplete(graph, str(error)) from error
    expected = _weight_bytes(program)
    written = data.stat().st_size if data.is_file() else 0
    if written < expected:
        raise _incomplete(data, f"{written} bytes, at least {expected} were to be written")
    name_outputs(program, [t.name for t in spec.outputs])
    _drop_scopes(program)
    graph.write_text(json.dumps(program, separators=(",", ":")))


class _HalvedWeights(nn.Layer):
    """A layer whose matrices and kernels are kept in fp16 and cast to fp32 where they are used."""

    def __init__(self, spec: ProgramSpec) -> None:
        super().__init__()
        self.layer = spec.layer
        halves = {n: halve(n, p.numpy()) for n, p in spec.parameters.items() if p.ndim >= 2}
        self.names = tuple(halves)
        self.halves = nn.ParameterList(
            [
                paddle.create_parameter(
                    values.shape, "float16", default_initializer=nn.initializer.Assign(values)
                )
                for values in halves.values()
            ]
        )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """The layer's output for `inputs`."""
        weights = [half.astype("float32") for half in self.halves]
        return call_with(self.layer, self.names, weights, inputs)


def _incomplete(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"{path.parent.name}/{path.name} was not written whole ({reason}). Nothing was left "
        "behind; make room or choose another folder, and export again."
    )


def _weight_bytes(program: dict[str, Any]) -> int:
    """Bytes of all parameters, which are float32 or float16 in the programs written here."""
    types = [parameter["O"]["TT"]["D"][:2] for parameter in _operations(program, "p")]
    return sum((2 if "f16" in kind["#"] else 4) * int(math.prod(s)) for kind, s in types)


def name_outputs(program: dict[str, Any], names: list[str]) -> None:
    """Give the program's outputs their own names; ``jit.save`` calls them ``fetch_name_0``, ..."""
    fetches = _operations(program, "1.fetch")
    if len(fetches) != len(names):
        raise LDMEngineError(
            f"Paddle {paddle.__version__} wrote a program of {len(fetches)} outputs where "
            f"{len(names)} were traced; this version writes programs in a way not known yet."
        )
    for fetch in fetches:
        attributes = {a["N"]: a["AT"] for a in fetch["A"]}
        attributes["name"]["D"] = names[attributes["col"]["D"]]


def _drop_scopes(node: Any) -> None:
    """Remove the layers' scope names, whose counters depend on what the process traced before."""
    if isinstance(node, dict):
        for key in ("A", "OA"):
            if isinstance(node.get(key), list):
                node[key] = [a for a in node[key] if not _is_scope(a)]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            _drop_scopes(item)


def _is_scope(attribute: Any) -> bool:
    return isinstance(attribute, dict) and attribute.get("N") == "struct_name"


def _operations(node: Any, kind: str) -> list[dict[str, Any]]:
    """Every operation of one kind in a PIR program's JSON."""
    if isinstance(node, list):
        return [op for item in node for op in _operations(item, kind)]
    if not isinstance(node, dict):
        return []
    if node.get("#") == kind:
        return [node]
    return [op for item in node.values() for op in _operations(item, kind)]
