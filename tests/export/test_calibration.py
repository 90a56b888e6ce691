"""Calibration prompts and samples: what is read, and what is gathered from a real bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ldm_engine import Bundle, LDMTextToImagePipeline
from ldm_engine.errors import InvalidArgumentError
from ldm_engine.runtimes.choice import choose_runtime
from ldm_export.calibration import (
    DEFAULT_PROMPTS,
    MAX_PROMPTS,
    MIN_PROMPTS,
    Sample,
    gather_samples,
    read_calibration_prompts,
    split_prompts,
)

PROMPTS = ("a red circle", "a big blue star on the left", "a green triangle", "a pink square")
STEPS = 8


def gather(bundle: Bundle, pipe: LDMTextToImagePipeline, per_prompt: int = 3) -> list[Sample]:
    return gather_samples(
        bundle,
        choose_runtime(bundle),
        pipe.options,
        PROMPTS,
        samples_per_prompt=per_prompt,
        guidance_scale=2.0,
        num_inference_steps=STEPS,
        seed=5,
    )


def test_prompts_are_read_one_a_line_without_repeats(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\r\n  a dog \na cat\nein Bär\nx".encode())
    assert read_calibration_prompts(path) == ("a cat", "a dog", "ein Bär", "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "hold 0 different prompts"),
        (b"one\none\n\ntwo\nthree", "hold 3 different prompts"),
        (b"one\ntwo\nthr\xe9e\nfour", "not UTF-8: line 3 holds the byte 0xe9"),
        ("one\ntwo\nthree\nfour".encode("utf-16-le"), "U\\+0000"),
        (b"x" * ((1 << 20) + 1), "more than 1 MiB"),
        ("\n".join(map(str, range(MAX_PROMPTS + 1))).encode(), f"hold {MAX_PROMPTS + 1} different"),
    ],
)
def test_bad_prompt_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=message) as error:
        read_calibration_prompts(path)
    assert str(path) in str(error.value)
    assert f"{MIN_PROMPTS} to {MAX_PROMPTS} different prompts" in str(error.value)


def test_a_folder_is_no_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        read_calibration_prompts(tmp_path)


def test_default_prompts_are_distinct_and_split_for_the_gate() -> None:
    assert len(set(DEFAULT_PROMPTS)) == len(DEFAULT_PROMPTS) >= MIN_PROMPTS
    calibration, held_out = split_prompts(DEFAULT_PROMPTS)
    assert set(calibration) | set(held_out) == set(DEFAULT_PROMPTS)
    assert not set(calibration) & set(held_out)
    assert len(held_out) == len(DEFAULT_PROMPTS) // 4


def test_samples_are_what_the_unet_is_given(
    tiny_bundle: Bundle, tiny_pipe: LDMTextToImagePipeline
) -> None:
    """Each sample's latents are those that the pipeline holds before the step of its time shift."""
    samples = gather(tiny_bundle, tiny_pipe)
    assert len(samples) == len(PROMPTS) * 3

    before: list[np.ndarray] = []
    tiny_pipe(
        PROMPTS[0],
        num_inference_steps=STEPS,
        guidance_scale=2.0,
        seed=5,
        callback_on_step_end=lambda i, t, latents: before.append(latents.copy()),
    )
    start = np.random.RandomState(5).standard_normal(before[0].shape).astype(np.float32)
    before.insert(0, start)
    for sample, step in zip(samples[:3], (0, 3, 5), strict=True):
        np.testing.assert_allclose(sample.latents, before[step], rtol=1e-4, atol=1e-4)


def test_samples_share_their_texts_and_cover_the_schedule(
    tiny_bundle: Bundle, tiny_pipe: LDMTextToImagePipeline
) -> None:
    samples = gather(tiny_bundle, tiny_pipe)
    assert all(s.unconditional_kv is samples[0].unconditional_kv for s in samples)
    assert len({id(s.kv) for s in samples}) == len(PROMPTS)
    assert len({s.time_shift.tobytes() for s in samples}) == STEPS
    inputs = samples[-1].inputs()
    np.testing.assert_array_equal(inputs["text_kv"][1], samples[-1].kv)
    assert inputs["text_kv"].shape[0] == 2


def test_samples_are_the_same_every_time(
    tiny_bundle: Bundle, tiny_pipe: LDMTextToImagePipeline
) -> None:
    first, second = (gather(tiny_bundle, tiny_pipe, per_prompt=1) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        for name, array in a.inputs().items():
            np.testing.assert_array_equal(array, b.inputs()[name])


@pytest.mark.parametrize(("per_prompt", "guidance"), [(0, 2.0), (STEPS + 1, 2.0), (1, 1.0)])
def test_impossible_requests_are_refused(
    tiny_bundle: Bundle, tiny_pipe: LDMTextToImagePipeline, per_prompt: int, guidance: float
) -> None:
    with pytest.raises(InvalidArgumentError, match="were given"):
        gather_samples(
            tiny_bundle,
            choose_runtime(tiny_bundle),
            tiny_pipe.options,
            PROMPTS,
            samples_per_prompt=per_prompt,
            guidance_scale=guidance,
            num_inference_steps=STEPS,
        )
