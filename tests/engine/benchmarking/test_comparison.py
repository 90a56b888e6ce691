"""Verdicts on samples whose truth is known; what cannot be compared is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldm_engine.benchmarking.comparison import (
    FASTER,
    FEW,
    NOISE,
    SLOWER,
    check_comparable,
    compare,
    differences,
)
from ldm_engine.benchmarking.results import END_TO_END, STAGES, Source, rows_of
from ldm_engine.errors import ResultsError
from made_results import SETTINGS, made_measurement, made_results

OLD = made_results(made_measurement())
TOLERANCE = 0.05


def with_settings(**call):
    return replace(SETTINGS, call={**SETTINGS.call, **call})


def verdicts(new, old=OLD):
    return {c.row.stage: c.verdict for c in compare(old, new)}


def slowdowns(new, tolerance=TOLERANCE):
    return [c.row.stage for c in compare(OLD, new) if c.is_slowdown(tolerance)]


@pytest.mark.parametrize(("scale", "verdict"), [(0.7, FASTER), (1.0, NOISE), (1.4, SLOWER)])
def test_every_row_has_its_verdict(scale, verdict):
    assert set(verdicts(made_results(made_measurement(scale=scale))).values()) == {verdict}


def test_a_slowdown_counts_beyond_the_tolerance_and_only_in_what_a_user_waits_for():
    assert slowdowns(made_results(made_measurement(scale=1.4))) == [END_TO_END, "unet"]
    assert slowdowns(made_results(made_measurement(scale=1.4)), tolerance=0.5) == []
    assert slowdowns(made_results(made_measurement(scale=0.7))) == []
    assert slowdowns(made_results(made_measurement(host=3.0, time_encoder=3.0))) == []


def test_steps_of_one_call_are_no_independent_witnesses():
    # Nothing changed but the mood of the machine in each call, which all of its steps share.
    stream = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        moods = stream.lognormal(0, 0.03, (2, 5))
        old, new = (
            made_results(
                replace(
                    made_measurement(),
                    samples_s={
                        **dict.fromkeys(STAGES, tuple(mood)),
                        "unet": tuple(np.repeat(mood, 50) * stream.lognormal(0, 0.01, 250)),
                    },
                )
            )
            for mood in moods
        )
        found += verdicts(new, old)["unet"] != NOISE
    assert found <= 15  # of 100; 5 expected, and 45 if each step were a witness


def test_a_slowdown_that_noise_explains_does_not_count():
    noisy = made_measurement()
    samples = tuple(0.05 if i % 3 == 0 else 0.12 + 0.01 * i for i in range(20))
    new = made_results(replace(noisy, samples_s=dict.fromkeys(STAGES, samples)))
    old = made_results(replace(noisy, samples_s=dict.fromkeys(STAGES, samples[::-1][:7])))
    assert verdicts(new, old)["unet"] == NOISE


@pytest.mark.parametrize(("old", "new", "few"), [(4, 20, True), (20, 4, True), (5, 5, False)])
def test_few_samples_decide_nothing(old, new, few):
    found = compare(
        made_results(made_measurement(count=old)),
        made_results(made_measurement(count=new, scale=2.0)),
    )
    for row in found:
        assert (row.verdict == FEW) == few
        assert row.is_slowdown(TOLERANCE) == (not few and row.row.stage in (END_TO_END, "unet"))


def test_what_both_scenarios_measured_stands_once():
    both = made_results(made_measurement(1), made_measurement(2))
    found = [(c.row.scenario, c.row.batch_size) for c in compare(both, both)]
    assert set(found) == {("single-stream", 1), ("offline", 2)}
    offline = made_results(made_measurement(1), made_measurement(2), scenarios=("offline",))
    assert {(c.row.scenario, c.row.batch_size) for c in compare(both, offline)} == {
        ("offline", 1),
        ("offline", 2),
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_inference_steps": 50}, "--num-inference-steps: there 2, here 50"),
        ({"guidance_scale": 1.0}, "--guidance-scale"),
        ({"eta": 0.5}, "--eta"),
        ({"height": 128}, "--height"),
    ],
)
def test_other_work_is_refused(change, named):
    rows = list(rows_of(made_measurement(), "offline"))
    with pytest.raises(ResultsError, match=named):
        check_comparable(Path("old.json"), OLD, with_settings(**change), rows)


def test_another_number_of_threads_is_other_work():
    rows = list(rows_of(made_measurement(), "offline"))
    with pytest.raises(ResultsError, match="--threads: there 2, here 1"):
        check_comparable(Path("old.json"), OLD, replace(SETTINGS, threads=1), rows)


def test_what_does_not_change_the_work_may_differ():
    rows = list(rows_of(made_measurement(), "offline"))
    other = replace(with_settings(guidance_scale=2.0), warm_up=9, min_samples=9, min_seconds=9.0)
    check_comparable(Path("old.json"), OLD, other, rows)


def test_results_without_a_row_in_common_are_refused():
    rows = list(rows_of(made_measurement(2), "offline"))
    with pytest.raises(ResultsError, match="It holds openvino fp32, batch 1"):
        check_comparable(Path("old.json"), OLD, SETTINGS, rows)


def test_another_machine_version_or_bundle_is_noted():
    assert differences(OLD, OLD) == []
    new = made_results(
        made_measurement(),
        bundle=Source("1" * 64, "somewhere"),
        machine={"processor": "B", "threads": 2},
        versions={"ldm-engine": "0.1.0", "openvino": "2", "paddle": "3"},
    )
    bundle, machine, versions = differences(OLD, new)
    assert "000000000000 (somewhere) there, 111111111111" in bundle
    assert machine == "Other machine: processor A there, B here."
    assert versions == "Other versions: openvino 1 there, 2 here."


def test_what_is_missing_on_this_side_is_noted():
    missing, interrupted = differences(replace(OLD, is_complete=False), made_results())
    assert "openvino fp32" in missing
    assert "interrupted" in interrupted
