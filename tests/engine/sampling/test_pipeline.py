from __future__ import annotations

import copy
import inspect
import pickle
import threading
import tracemalloc
from typing import get_type_hints

import diffusers
import numpy as np
import pytest

from ldm_engine import FlatImageWarning, LDMTextToImagePipeline, PromptTruncatedWarning
from ldm_engine.errors import (
    ArgumentTypeError,
    ClosedError,
    InvalidArgumentError,
    LDMEngineError,
    NonFiniteError,
    RuntimeUnavailableError,
    ShapeError,
)
from ldm_engine.sampling.call import CallKeywords, OwnKeywords
from ldm_engine.sampling.loop import denoise
from ldm_engine.sampling.noise import NoiseStream
from ldm_engine.sampling.pixels import check_finite, warn_of_flat_images
from ldm_engine.sampling.settings import SETTINGS
from ldm_engine.sampling.solvers import ddim_rows, join_rows

# oneDNN orders its sums by the batch size; over the steps this reached 2e-6 here. 1/255 is 4e-3.
BATCH_TOLERANCE = 1e-4

CALL = {"num_inference_steps": 3, "output_type": "np", "seed": 0}


def render(pipe, *args, **kwargs):
    return pipe(*args, **{**CALL, **kwargs}).images


def test_the_call_looks_like_that_of_diffusers():
    theirs = inspect.signature(diffusers.LDMTextToImagePipeline.__call__).parameters
    ours = inspect.signature(LDMTextToImagePipeline.__call__).parameters
    positional = [p for p in ours.values() if p.kind is not p.KEYWORD_ONLY]
    expected = [p for p in theirs.values() if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in positional] == [(p.name, p.default) for p in expected]


def test_output_types(tiny_pipe):
    arrays = render(tiny_pipe, ["a", "b"])
    assert arrays.shape == (2, 64, 64, 3)
    assert arrays.dtype == np.float32
    assert 0 <= arrays.min() < arrays.max() <= 1
    pictures = render(tiny_pipe, ["a", "b"], output_type="pil")
    for array, picture in zip(arrays, pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), (array * 255).round().astype(np.uint8))
    (as_tuple,) = tiny_pipe(["a", "b"], return_dict=False, **CALL)
    np.testing.assert_array_equal(as_tuple, arrays)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0, [1.0, 3.0, 7.5, 1.0, 0.0]])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_an_image_is_the_same_alone_and_in_a_batch(tiny_pipe, guidance_scale, eta):
    prompts = ["one", "two", "three", "four", "five"]
    batch = render(tiny_pipe, prompts, guidance_scale=guidance_scale, eta=eta, seed=10)
    for i, prompt in enumerate(prompts):
        scale = guidance_scale[i] if isinstance(guidance_scale, list) else guidance_scale
        alone = render(tiny_pipe, prompt, guidance_scale=scale, eta=eta, seed=10 + i)
        assert np.abs(alone[0] - batch[i]).max() < BATCH_TOLERANCE


def test_every_image_has_its_own_eta(tiny_pipe):
    etas = [0.0, 0.3, 1.0, 0.3]
    batch = render(tiny_pipe, ["a"] * 4, eta=etas, seed=[5, 5, 5, 6], guidance_scale=2.0)
    for i, (eta, seed) in enumerate(zip(etas, [5, 5, 5, 6], strict=True)):
        alone = render(tiny_pipe, "a", eta=eta, seed=seed, guidance_scale=2.0)
        assert np.abs(alone[0] - batch[i]).max() < BATCH_TOLERANCE
    same = render(tiny_pipe, ["a"] * 2, eta=np.array([0.3, 0.3]), seed=5)
    np.testing.assert_array_equal(same, render(tiny_pipe, ["a"] * 2, eta=0.3, seed=5))


@pytest.mark.parametrize("eta", [[0.1], [0.1, 2.0], [0.1, "x"], [0.1, float("nan")], "0.1"])
def test_an_eta_that_is_none_is_refused(tiny_pipe, eta):
    with pytest.raises(InvalidArgumentError, match="eta"):
        render(tiny_pipe, ["a", "b"], eta=eta)


def test_everything_asked_for_changes_the_image(tiny_pipe):
    base = {"guidance_scale": 2.0, "eta": 0.5, "seed": 1}
    images = [
        render(tiny_pipe, "a cat", **base),
        render(tiny_pipe, "a dog", **base),
        render(tiny_pipe, "a cat", **{**base, "guidance_scale": 3.0}),
        render(tiny_pipe, "a cat", **{**base, "eta": 0.6}),
        render(tiny_pipe, "a cat", **{**base, "seed": 2}),
        render(tiny_pipe, "a cat", **{**base, "num_inference_steps": 4}),
        render(tiny_pipe, "a cat", **{**base, "negative_prompt": "a dog"}),
    ]
    for i, first in enumerate(images):
        for second in images[i + 1 :]:
            assert np.abs(first - second).max() > 1e-4


def test_the_same_call_gives_the_same_pixels(tiny_pipe):
    call = {"guidance_scale": 2.0, "eta": 1.0, "seed": [5, 3]}
    first = render(tiny_pipe, ["a", "b"], **call)
    render(tiny_pipe, "something else", height=128)
    np.testing.assert_array_equal(first, render(tiny_pipe, ["a", "b"], **call))


def test_random_seeds_are_told(tiny_pipe):
    output = tiny_pipe(["a", "b"], num_inference_steps=1, output_type="np")
    again = tiny_pipe(["a", "b"], num_inference_steps=1, output_type="np", seed=output.seeds)
    np.testing.assert_array_equal(output.images, again.images)


def test_latents_replace_the_first_draw_only(tiny_pipe):
    drawn = np.empty((1, 4, 8, 8), np.float32)
    NoiseStream([9]).fill(drawn)
    before = drawn.copy()
    by_seed = render(tiny_pipe, "a", seed=9, eta=1.0)
    by_latents = render(tiny_pipe, "a", seed=9, eta=1.0, latents=drawn)
    np.testing.assert_array_equal(by_seed, by_latents)
    np.testing.assert_array_equal(drawn, before)  # the caller's array is not written to


def test_other_sizes(tiny_pipe):
    assert render(tiny_pipe, "a", height=128, width=192).shape == (1, 128, 192, 3)
    assert render(tiny_pipe, "a").shape == (1, 64, 64, 3)


def test_the_callback_sees_each_step_and_can_stop(tiny_pipe):
    seen = []

    def watch(step, timestep, latents):
        seen.append((step, timestep, latents.shape, float(latents[0, 0, 0, 0])))
        return np.bool_(step == 2)

    output = tiny_pipe(
        "a", num_inference_steps=10, seed=0, output_type="np", callback_on_step_end=watch
    )
    assert output.num_steps_run == 3
    assert [s[:3] for s in seen] == [(i, 900 - 100 * i, (1, 4, 8, 8)) for i in range(3)]
    assert len({s[3] for s in seen}) == 3
    assert np.isfinite(output.images).all()


def test_an_error_in_the_callback_leaves_the_pipeline_usable(tiny_pipe):
    def fail(step, timestep, latents):
        raise KeyError("mine")

    before = render(tiny_pipe, "a")
    with pytest.raises(KeyError, match="mine"):
        render(tiny_pipe, "a", callback_on_step_end=fail)
    np.testing.assert_array_equal(before, render(tiny_pipe, "a"))


def test_a_long_prompt_is_cut_with_a_warning(tiny_pipe):
    with pytest.warns(PromptTruncatedWarning, match="cut off"):
        render(tiny_pipe, "word " * 200)


def test_the_unconditional_text_is_encoded_once(tiny_bundle, monkeypatch):
    monkeypatch.setenv("LDM_ENGINE_CACHE", "off")
    pipe = LDMTextToImagePipeline.from_pretrained(tiny_bundle.path)
    program, encoded = pipe.programs["text_encoder"], []
    run = program.run
    program.run = lambda: (encoded.append(program.inputs["input_ids"].copy()), run())
    for prompt in ("a", "b", ["c", "c", "d"]):
        render(pipe, prompt, guidance_scale=3.0)
    twin = pipe.clone()
    twin.programs["text_encoder"].run = lambda: pytest.fail("encoded again")
    render(twin, "d", guidance_scale=3.0)
    assert len(encoded) == 1 + 4  # the empty text once, then each distinct prompt


def test_clones_render_the_same_in_threads(tiny_pipe):
    expected = [render(tiny_pipe, "a cat", seed=s, guidance_scale=3.0) for s in range(2)]
    clones = [tiny_pipe.clone() for _ in range(2)]
    results = [None, None]

    def work(i):
        for _ in range(5):
            results[i] = render(clones[i], "a cat", seed=i, guidance_scale=3.0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, image in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, image)


def test_sequential_memory_holds_one_program_and_renders_the_same(tiny_bundle, tiny_pipe):
    pipe = LDMTextToImagePipeline.from_pretrained(tiny_bundle.path, memory="sequential")
    for candidate in (pipe, pipe.clone()):
        given = render(candidate, ["a", "b"], guidance_scale=3.0, eta=0.5)
        expected = render(tiny_pipe, ["a", "b"], guidance_scale=3.0, eta=0.5)
        np.testing.assert_array_equal(given, expected)
        assert list(candidate.programs._opened) == ["vae_decoder"]


def test_numpy_scalars_are_numbers_too(tiny_pipe):
    given = render(
        tiny_pipe, "a", seed=np.array(3), guidance_scale=np.array(2.0), eta=np.float32(0.5),
        num_inference_steps=np.int64(2), height=np.int32(64),
    )  # fmt: skip
    expected = render(tiny_pipe, "a", seed=3, guidance_scale=2.0, eta=0.5, num_inference_steps=2)
    np.testing.assert_array_equal(given, expected)


def test_a_pipeline_in_use_refuses_a_second_call(tiny_pipe):
    """Sharing its buffers would give wrong pictures without a word."""

    def call_again(step, timestep, latents):
        render(tiny_pipe, "b")

    with pytest.raises(LDMEngineError, match=r"clone\(\)"):
        render(tiny_pipe, "a", callback_on_step_end=call_again)
    twin = tiny_pipe.clone()
    expected = render(tiny_pipe, "a", seed=4)
    given = render(
        tiny_pipe, "a", seed=4, callback_on_step_end=lambda *_: render(twin, "b") is None
    )
    np.testing.assert_array_equal(given, expected)


def _loop_peak_bytes(pipe, size, steps, eta):
    """The most that Python allocated at a time inside the loop body, after a first round."""
    unet, model = pipe.programs["unet"], pipe.bundle.model
    unet.allocate(
        {
            "latents": (2, 4, size, size),
            "time_shift": (1, model.time_shift_width),
            "text_kv": (4, model.token_length, model.text_kv_width),
            "noise_pred": (4, 4, size, size),
        }
    )
    rows = join_rows([ddim_rows(pipe.schedule, steps, e) for e in (eta, eta / 2)])
    shift = np.zeros((steps, model.time_shift_width), np.float32)
    guidance = np.full((2, 1, 1, 1), 2.0, np.float32)
    unet.inputs["latents"][:] = 0
    start = 0
    tracemalloc.start()
    try:
        for step in denoise(unet, rows, shift, guidance, NoiseStream([0, 1])):
            if step == 1:
                tracemalloc.reset_peak()
                start = tracemalloc.get_traced_memory()[0]
        return tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_loop_allocates_nothing_that_grows(tiny_pipe, eta):
    small = _loop_peak_bytes(tiny_pipe, 16, 5, eta)
    large = _loop_peak_bytes(tiny_pipe, 64, 5, eta)  # latents of 128 KiB
    long = _loop_peak_bytes(tiny_pipe, 16, 40, eta)
    # NumPy buffers 8 KiB of small arrays, and a part of the noise stream is 32 KiB of float64.
    allowed = 16_000 + (2 * 4096 * 8 if eta else 0)
    assert max(small, large, long) < allowed, (small, large, long)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": []}, InvalidArgumentError, "empty list"),
        ({"prompt": 7}, ArgumentTypeError, "7"),
        ({"prompt": ["fine", None]}, ArgumentTypeError, "None"),
        ({"prompt": b"bytes"}, ArgumentTypeError, "bytes"),
        ({"num_inference_steps": 0}, InvalidArgumentError, "1 to 1000"),
        ({"num_inference_steps": 1001}, InvalidArgumentError, "1 to 1000"),
        ({"eta": 1.5}, InvalidArgumentError, "eta"),
        ({"eta": float("nan")}, InvalidArgumentError, "eta"),
        ({"guidance_scale": float("nan")}, InvalidArgumentError, "guidance_scale"),
        ({"guidance_scale": [1.0, 2.0]}, InvalidArgumentError, "2 numbers for 1"),
        ({"guidance_scale": "6"}, InvalidArgumentError, "guidance_scale"),
        ({"guidance_scale": 10**400}, InvalidArgumentError, "guidance_scale"),
        ({"guidance_scale": 1e39}, InvalidArgumentError, "10000"),
        ({"guidance_scale": np.complex64(2)}, InvalidArgumentError, "guidance_scale"),
        ({"eta": np.complex64(1)}, InvalidArgumentError, "eta"),
        ({"height": 100}, ShapeError, "multiples of 64"),
        ({"width": 0}, ShapeError, "multiples of 64"),
        ({"width": -64}, ShapeError, "multiples of 64"),
        ({"height": 64.0}, ShapeError, "multiples of 64"),
        ({"height": 2**40}, ShapeError, "8192"),
        ({"latents": np.zeros((1, 4, 16, 16), np.float32)}, ShapeError, "64x64"),
        ({"latents": np.zeros((1, 4, 8, 8), np.int64)}, ArgumentTypeError, "int64"),
        ({"latents": np.full((1, 4, 8, 8), np.nan)}, InvalidArgumentError, "NaN"),
        ({"latents": "noise"}, ArgumentTypeError, "latents"),
        ({"seed": -1}, InvalidArgumentError, "-1"),
        ({"seed": 2**32}, InvalidArgumentError, "4294967295"),
        ({"seed": [1, 2]}, InvalidArgumentError, "2 seeds for 1"),
        ({"negative_prompt": ["a", "b"]}, InvalidArgumentError, "2 texts for 1"),
        ({"negative_prompt": 3}, ArgumentTypeError, "negative_prompt"),
        ({"negative_prompt": "b"}, InvalidArgumentError, "without guidance"),
        ({"output_type": "pt"}, InvalidArgumentError, "output_type"),
        ({"output_type": np.array(["pil"])}, InvalidArgumentError, "output_type"),
        ({"generator": object()}, ArgumentTypeError, "seed="),
        ({"num_images_per_prompt": 0}, InvalidArgumentError, "1 or more"),
        ({"num_images_per_prompt": 2.0}, ArgumentTypeError, "whole number"),
        ({"num_images_per_prompt": True}, ArgumentTypeError, "whole number"),
        ({"num_images_per_prompt": 2, "seed": [1]}, InvalidArgumentError, "1 seeds for 2"),
        ({"callback_on_step_end": 3}, ArgumentTypeError, "callback_on_step_end"),
    ],
)
def test_bad_arguments_are_refused(tiny_pipe, arguments, error, message):
    call = {"prompt": "a", "num_inference_steps": 1, "seed": 0, **arguments}
    with pytest.raises(error, match=message) as caught:
        tiny_pipe(**call)
    assert isinstance(caught.value, LDMEngineError)


def test_an_unknown_keyword_is_an_error(tiny_pipe):
    with pytest.raises(TypeError, match="guidance"):
        tiny_pipe("a", guidance=3.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "gpu:0"}, RuntimeUnavailableError, "gpu:0"),
        ({"precision": "int8"}, RuntimeUnavailableError, "int8"),
        ({"precision": "banana"}, InvalidArgumentError, "fp32"),
        ({"device": ["cpu"]}, InvalidArgumentError, "cpu"),
        ({"runtime": []}, InvalidArgumentError, "paddle"),
        ({"threads": 100_000}, InvalidArgumentError, "1024"),
        ({"threads": 2**31}, InvalidArgumentError, "1024"),
        ({"runtime": "tensorflow"}, InvalidArgumentError, "paddle"),
        ({"memory": "lots"}, InvalidArgumentError, "sequential"),
        ({"threads": 0}, InvalidArgumentError, "threads"),
    ],
)
def test_bad_options_are_refused(tiny_bundle, options, error, message):
    with pytest.raises(error, match=message):
        LDMTextToImagePipeline.from_pretrained(tiny_bundle.path, **options)


def test_nan_is_an_error_and_not_an_image(tiny_pipe):
    def poison(step, timestep, latents):
        latents[1, 0, 0, 0] = np.nan

    with pytest.raises(NonFiniteError, match=r"1 of 2 images.*seeds 8"):
        render(tiny_pipe, ["a", "b"], seed=7, callback_on_step_end=poison)


@pytest.mark.parametrize(("precision", "is_named"), [("fp16", True), ("bf16", False)])
def test_in_fp16_nan_may_be_an_overflow(precision, is_named):
    values = np.full((1, 4, 8, 8), np.inf, np.float32)
    with pytest.raises(NonFiniteError) as caught:
        check_finite(values, [0], "the UNet", precision)
    assert ("use bf16 or fp32" in str(caught.value)) is is_named


def test_a_flat_image_is_warned_about():
    pixels = np.full((2, 8, 8, 3), (0.2, 0.5, 0.9), np.float32)
    pixels[0, 0, 0] = 0
    with pytest.warns(FlatImageWarning, match="seed 5") as caught:
        warn_of_flat_images(pixels, [4, 5])
    assert len(caught) == 1


def test_a_pipeline_is_closed_once_and_for_all(tiny_bundle):
    with LDMTextToImagePipeline.from_pretrained(tiny_bundle.path) as pipe:
        expected = render(pipe, "a")
        twin = pipe.clone()
    pipe.close()
    with pytest.raises(ClosedError, match="from_pretrained"):
        render(pipe, "a")
    with pytest.raises(ClosedError):
        pipe.clone()
    np.testing.assert_array_equal(render(twin, "a"), expected)


@pytest.mark.parametrize("memory", ["resident", "sequential"])
def test_nothing_of_a_closed_pipeline_can_be_used(tiny_bundle, memory):
    pipe = LDMTextToImagePipeline.from_pretrained(tiny_bundle.path, memory=memory)
    request = pipe.opened.request({"prompt": "a", "seed": 0, "num_inference_steps": 1})
    latents = pipe.denoise(request)
    pipe.close()
    for use in (
        lambda: pipe.denoise(request),
        lambda: pipe.decode(latents),
        lambda: pipe.render(request),
        pipe.clone,
        pipe.__enter__,
    ):
        with pytest.raises(ClosedError):
            use()


def test_an_unknown_program_closes_no_other(tiny_bundle):
    with LDMTextToImagePipeline.from_pretrained(tiny_bundle.path) as pipe:
        unet = pipe.programs["unet"]
        with pytest.raises(KeyError):
            pipe.programs["upscaler"]
        assert pipe.programs["unet"] is unet


def test_leaving_a_block_waits_for_another_thread(tiny_bundle):
    started, results = threading.Event(), []

    def draw(pipe):
        results.append(render(pipe, "a", callback_on_step_end=lambda *_: started.set()))

    with LDMTextToImagePipeline.from_pretrained(tiny_bundle.path) as pipe:
        thread = threading.Thread(target=draw, args=[pipe])
        thread.start()
        started.wait()
    thread.join()
    assert results[0].shape == (1, 64, 64, 3)


def test_a_pipeline_is_not_closed_under_a_call(tiny_pipe):
    with pytest.raises(LDMEngineError, match="already rendering"):
        render(tiny_pipe, "a", callback_on_step_end=lambda *_: tiny_pipe.close())
    assert render(tiny_pipe, "a").shape == (1, 64, 64, 3)


def test_the_call_takes_every_setting():
    """The signature is written out for readers and type checkers; the list of settings decides."""
    parameters = inspect.signature(LDMTextToImagePipeline.__call__).parameters
    for setting in SETTINGS:
        assert setting.name in parameters, setting.name
        default = parameters[setting.name].default
        assert default in (setting.default, None, inspect.Parameter.empty), setting.name


def test_type_checkers_read_the_keywords_of_the_call():
    parameters = inspect.signature(LDMTextToImagePipeline.__call__).parameters.values()
    own = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert OwnKeywords.__annotations__.keys() == own
    decided = {"self", "prompt", "output_type", "return_dict"}
    assert get_type_hints(CallKeywords).keys() == {p.name for p in parameters} - decided


def test_images_of_a_prompt_follow_each_other(tiny_pipe):
    found = tiny_pipe(["a", "b"], num_images_per_prompt=2, **CALL)
    assert (found.prompts, found.seeds) == (("a", "a", "b", "b"), (0, 1, 2, 3))
    np.testing.assert_array_equal(found.images, render(tiny_pipe, ["a", "a", "b", "b"]))
    chosen = tiny_pipe("a", num_images_per_prompt=np.int64(2), **{**CALL, "seed": [7, 3]})
    assert chosen.seeds == (7, 3)


def test_latents_are_not_decoded(tiny_bundle, monkeypatch):
    with LDMTextToImagePipeline.from_pretrained(tiny_bundle.path) as pipe:
        images = render(pipe, ["a", "b"])
        monkeypatch.setattr(pipe.programs["vae_decoder"], "run", lambda: pytest.fail("decoded"))
        latents = render(pipe, ["a", "b"], output_type="latent")
        monkeypatch.undo()
        assert (latents.shape, latents.dtype) == ((2, 4, 8, 8), np.float32)
        np.testing.assert_array_equal(pipe.decode(latents), images)
        render(pipe, "c")  # in other arrays: what was returned is the caller's own
        np.testing.assert_array_equal(pipe.decode(latents), images)


def test_a_pipeline_says_what_it_is(tiny_bundle):
    pipe = LDMTextToImagePipeline.from_pretrained(tiny_bundle.path, threads=1)
    assert (pipe.runtime, pipe.precision) == ("paddle", "fp32")
    for said in (str(tiny_bundle.path), "paddle", "fp32", "cpu", "1 threads", "64x64"):
        assert said in repr(pipe)
    pipe.close()
    assert "closed" in repr(pipe)


def test_a_pipeline_stays_where_it_is(tiny_pipe):
    assert tiny_pipe.to("cpu") is tiny_pipe
    for elsewhere in ("cuda", "gpu:0", np.float16):
        with pytest.raises(InvalidArgumentError, match="from_pretrained"):
            tiny_pipe.to(elsewhere)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_pipeline_is_not_copied(tiny_pipe, copied):
    with pytest.raises(ArgumentTypeError, match=r"clone\(\).*from_pretrained"):
        copied(tiny_pipe)


@pytest.mark.parametrize(
    ("latents", "error"),
    [
        (np.zeros((4, 8, 8), np.float32), ShapeError),
        (np.zeros((1, 3, 8, 8), np.float32), ShapeError),
        (np.zeros((1, 4, 8, 9), np.float32), ShapeError),
        (np.zeros((0, 4, 8, 8), np.float32), ShapeError),
        (np.zeros((1, 4, 8, 8), np.int64), ArgumentTypeError),
        (None, ArgumentTypeError),
    ],
)
def test_what_is_no_latents_is_not_decoded(tiny_pipe, latents, error):
    with pytest.raises(error, match="`latents` has"):
        tiny_pipe.decode(latents)
