"""Results as a run would give them, with samples that a test chooses."""

from __future__ import annotations

from dataclasses import asdict, fields

from ldm_engine.benchmarking.results import (
    SCENARIOS,
    STAGES,
    Case,
    Measurement,
    Results,
    Settings,
    Source,
    call_settings,
)

FIGURES = {f.name for f in fields(Measurement)} - {f.name for f in fields(Case)} - {"samples_s"}
SETTINGS = Settings(
    call={
        **{setting.name: setting.default for setting in call_settings()},
        "num_inference_steps": 2,
        "guidance_scale": 6.0,
        "eta": 0.0,
        "height": 64,
        "width": 64,
    },
    threads=2,
    warm_up=1,
    min_samples=5,
    min_seconds=0.5,
)


def made_measurement(batch_size=1, scale=1.0, count=20, **by_stage):
    """Each stage `scale` times as long, or as `by_stage` says, with one in ten of spread."""
    spread = [0.1 * (1 + 0.01 * (i * 7 % 11)) for i in range(count)]
    return Measurement(
        **asdict(Case("openvino", "fp32", batch_size)),
        samples_s={s: tuple(by_stage.get(s, scale) * x for x in spread) for s in STAGES},
        **{name: 3 if name.endswith("_bytes") else 3.0 for name in FIGURES},
    )


def made_results(*measurements, scenarios=SCENARIOS, settings=SETTINGS, **facts):
    given = {
        "date_utc": "2026-01-01T00:00:00+00:00",
        "is_complete": True,
        "bundle": Source("0" * 64, "somewhere"),
        "load_average": 0.1,
        "machine": {"processor": "A", "threads": 2},
        "versions": {"ldm-engine": "0.1.0", "openvino": "1"},
        "failures": (),
    }
    sizes = tuple(m.batch_size for m in measurements)
    return Results(
        **{**given, **facts},
        settings=settings,
        scenarios=scenarios,
        batch_sizes=sizes if "offline" in scenarios else (),
        measurements=measurements,
    )
