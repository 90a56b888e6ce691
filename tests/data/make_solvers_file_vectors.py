"""Writes solvers_files.json: which files of fitted solvers both engines accept, and their rows.

A case sets or removes what is at a path of the base, a file of some tables, and says the error's
text. Without `seal` the hash is not put right after. Cases without an error are accepted.
"""

from __future__ import annotations

from typing import Any

from make_manifest_vectors import write
from make_vectors import HUGGINGFACE, row_facts

from ldm_engine.sampling.fitted import Figures, Origin, Table, Tables
from ldm_engine.sampling.schedule import NoiseSchedule
from ldm_engine.sampling.solvers_file import tables_content

BUNDLE = "5" * 64
ORIGIN = Origin("openvino", "fp32", 48, "a" * 64, "1.0.0")
DDIM = Figures(96, 46.4, 42.2, 36.7)
DPMSOLVER = Figures(96, 27.0, 17.25, 8.5)
#: The second of guidance 6 is the first that reaches DDIM's figures.
TABLES = Tables((
    Table(2.0, (999, 500), ((0.25, 0.75), (0.125, 0.9, -0.025)), DDIM, DDIM, DPMSOLVER, 70.0,
          ORIGIN),
    Table(6.0, (999, 41, 0), ((0.9, 0.1), (0.3, 0.85, -0.15), (0.01, 1.2, -0.3, 0.09)),
          Figures(96, 50.5, 45.0, 36.6), DDIM, DPMSOLVER, 70.0, ORIGIN),
    Table(6.0, (999, 600, 300, 3), ((0.7, 0.3), (1 / 3, 2 / 3), (0.2, 1.0, -0.25, 0.05), (1e-3, 1)),
          Figures(96, 50.5, 45.0, 36.75), DDIM, DPMSOLVER, 70.0, ORIGIN),
    Table(6.5, (999, 600, 300, 3), ((0.8, 0.2), (0.1, 0.9), (0.3, 0.7, -0.35, 0.15), (0.5, 0.25)),
          Figures(96, 50.5, 45.0, 36.75), DDIM, DPMSOLVER, 70.0, ORIGIN),
    Table(7.25, (999, 600, 300, 3), ((0.8, 0.2), (0.1, 0.9), (0.3, 0.7, -0.35, 0.1), (0.5, 0.25)),
          Figures(96, 50.5, 45.0, 36.0), DDIM, DPMSOLVER, 70.0, ORIGIN),
    Table(8.5, (999, 600, 300, 3), ((0.8, 0.2), (0.1, 0.9), (0.3, 0.7, -0.35, 0.1), (0.5, 0.25)),
          Figures(96, 50.5, 45.0, 36.0), DDIM, DPMSOLVER, 70.0, ORIGIN),
))  # fmt: skip


def base() -> dict[str, Any]:
    """The content of a whole file, without its hash."""
    return tables_content(BUNDLE, TABLES)


def cases() -> list[dict[str, Any]]:
    """What is changed, and what is said of it."""

    def at(path: list[Any], value: Any, says: str | None, **more: Any) -> dict[str, Any]:
        return {"path": path, "value": value, "says": says, **more}

    def removed(path: list[Any], says: str) -> dict[str, Any]:
        return {"path": path, "remove": True, "says": says}

    table = ["tables", 1]
    return [
        at([], None, None),
        at(["tables"], [], None),
        at(["more"], 1, None),
        at([*table, "more"], 1, None),
        at([*table, "guidance_scale"], 6.5, None),
        at([*table, "guidance_scale"], 10, None),
        at([*table, "weights", 2], [0, 1], None),
        at([*table, "weights", 1, 0], 100, None),
        *(at(["format_version"], v, "has format version") for v in (0, 2, "1", 1.0, None, True)),
        removed(["format_version"], "has format version"),
        at(["bundle"], "6" * 64, "was fitted to the bundle"),
        at(["bundle"], None, "was fitted to the bundle"),
        at([*table, "guidance_scale"], 6.5, "was altered after it was written", seal=False),
        at(["solvers_sha256"], None, "was altered after it was written", seal=False),
        removed(["tables"], "`tables` is"),
        *(at(["tables"], v, "`tables` is") for v in (None, {}, "x", 3)),
        *(at(table, v, "an object is expected") for v in (None, [], 1)),
        at(["tables", 2, "timesteps"], [999, 600, 300], "`weights` is"),
        *(at([*table, "timesteps"], v, "`timesteps` is")
          for v in (None, [], [41, 999, 0], [999, 41, 41], [1000, 41, 0], [999, 41, -1],
                    [999, 41.0, 0], ["999", 41, 0], [True, 41, 0], list(range(999, 700, -1)))),
        *(at([*table, "weights"], v, "`weights` is") for v in (None, [], {}, [[1, 0]])),
        *(at([*table, "weights", 1], v, "`weights of step 2` is")
          for v in (None, [], [1], {}, [1, 2, 3, 4], [1, "2"], [1, True], [1, None], [1, 101],
                    [1, -1e300])),
        at([*table, "weights", 0], [1, 2, 3], "`weights of step 1` is"),
        *(at([*table, "guidance_scale"], v, "`guidance_scale` is")
          for v in (None, "6", 10001, -1e300, True)),
        at([*table, "guidance_scale"], 2, None),
        at([*table, "timesteps"], [999, 600, 300, 3], "`weights` is"),
        *(at([*table, name, "least"], v, "`least` is")
          for name in ("figures", "ddim_50", "dpmsolver") for v in (None, "x", 1001, True)),
        at([*table, "figures"], None, "an object is expected"),
        *(at([*table, "figures", "count"], v, "`count` is") for v in (0, -1, 1.5, 2**31, "9")),
        *(at([*table, "reference_db"], v, "`reference_db` is") for v in (None, 1001)),
        at([*table, "origin"], 3, "an object is expected"),
        *(at([*table, "origin", "runtime"], v, "`runtime` is")
          for v in (None, "", "a b", "x" * 33)),
        at([*table, "origin", "prompts_sha256"], "a" * 63, "`prompts_sha256` is"),
        at([*table, "origin", "images"], 0, "`images` is"),
        at([*table, "origin", "version"], "\n", "`version` is"),
        at(["tables", 2], base()["tables"][1], "two tables for one guidance and step count"),
    ]  # fmt: skip


if __name__ == "__main__":
    schedule = NoiseSchedule.from_config(HUGGINGFACE)
    content = {
        "scheduler": HUGGINGFACE,
        "bundle": BUNDLE,
        "base": base(),
        "digests": [table.digest for table in TABLES.tables],
        "mixed": [
            {"guidance_scale": scale, "steps": 4, "digest": TABLES.find(scale, 4).digest}
            for scale in (6.0, 6.1, 6.25, 6.4999999, 7.0)
        ],
        "rows": [[row_facts(row) for row in table.rows(schedule)] for table in TABLES.tables],
    }
    write("solvers_files", {**content, "cases": cases()})
