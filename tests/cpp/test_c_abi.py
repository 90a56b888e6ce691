"""The C interface, bound from another language: ctypes, from the header's struct definitions."""

from __future__ import annotations

import ctypes as c
import os
import re

import numpy as np
import pytest

from conftest import ROOT
from ldm_engine import LDMTextToImagePipeline, __version__
from made_tables import copy_with_tables

HEADER = (ROOT / "cpp/include/ldm_engine.h").read_text()
PROMPTS = ["a small red circle on the left", "a large blue star"]
OK, INVALID_ARGUMENT, SHAPE, BUNDLE, NOT_FOUND = 0, 2, 3, 4, 5
AUTO_STEPS = -(2**31)
PIXEL_TOLERANCE = 1
STEPS = 6


class Options(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        *((name, c.c_char_p) for name in ("runtime", "device", "precision", "memory")),
        *((name, c.c_int32) for name in ("threads", "check_hashes", "cache", "reserved")),
    ]


Callback = c.CFUNCTYPE(
    c.c_int32, c.c_void_p, c.c_int32, c.c_int32, c.POINTER(c.c_float), c.c_size_t
)


class Picture(c.Structure):
    _fields_ = [("width", c.c_int32), ("height", c.c_int32), ("rgb", c.POINTER(c.c_uint8))]


class Request(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        *((n, c.c_int32) for n in ("height", "width", "num_inference_steps", "reserved")),
        ("guidance_scales", c.POINTER(c.c_double)),
        ("guidance_scale_count", c.c_size_t),
        ("etas", c.POINTER(c.c_double)),
        ("eta_count", c.c_size_t),
        ("seeds", c.POINTER(c.c_int64)),
        ("seed_count", c.c_size_t),
        ("negative_prompts", c.POINTER(c.c_char_p)),
        ("negative_prompt_count", c.c_size_t),
        ("latents", c.POINTER(c.c_float)),
        ("latents_count", c.c_size_t),
        ("on_step_end", Callback),
        ("user_data", c.c_void_p),
        ("solver", c.c_char_p),
        ("timesteps", c.POINTER(c.c_int32)),
        ("timestep_count", c.c_size_t),
        ("solver_table", c.c_char_p),
        ("pictures", c.POINTER(Picture)),
        ("picture_count", c.c_size_t),
        ("masks", c.POINTER(Picture)),
        ("mask_count", c.c_size_t),
        ("strength", c.c_double),
    ]


class Info(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        *((n, c.c_char_p) for n in ("source", "digest", "runtime", "precision", "memory")),
        *((n, c.c_int32) for n in ("threads", "default_size", "pixel_multiple", "token_length")),
        *((n, c.c_int32) for n in ("latent_channels", "scale_factor")),
    ]


@pytest.fixture(scope="module")
def library(cpp_build):
    loaded = c.CDLL(str(cpp_build.library))
    loaded.ldm_engine_version.restype = c.c_char_p
    loaded.ldm_engine_last_error.restype = c.c_char_p
    loaded.ldm_engine_result_image_count.restype = c.c_size_t
    for name in ("close", "clone", "generate", "result_free", "result_image", "result_steps_run"):
        getattr(loaded, f"ldm_engine_{name}").argtypes = None
    return loaded


def _open(library, path, **settings):
    options, pipeline = Options(), c.c_void_p()
    assert library.ldm_engine_options_init(c.byref(options), c.sizeof(options)) == OK
    for name, value in settings.items():
        setattr(options, name, value)
    code = library.ldm_engine_open(os.fsencode(path), c.byref(options), c.byref(pipeline))
    return code, pipeline


def _request(library, **settings):
    request = Request()
    assert library.ldm_engine_request_init(c.byref(request), c.sizeof(request)) == OK
    kinds = {"seeds": c.c_int64, "guidance_scales": c.c_double, "etas": c.c_double}
    kinds |= {"timesteps": c.c_int32, "pictures": Picture, "masks": Picture}
    for name, value in settings.items():
        if name in kinds:
            setattr(request, name, (kinds[name] * len(value))(*value))
            setattr(request, f"{name[:-1]}_count", len(value))
        else:
            setattr(request, name, value)
    return request


def _generate(library, pipeline, prompts, request):
    """The code, and the images [B, H, W, 3] with the number of steps run."""
    result = c.c_void_p()
    texts = (c.c_char_p * len(prompts))(*(p.encode() for p in prompts))
    code = library.ldm_engine_generate(
        pipeline, texts, c.c_size_t(len(prompts)), c.byref(request), c.byref(result)
    )
    if code != OK:
        assert not result
        return code, None, 0
    images = []
    for i in range(library.ldm_engine_result_image_count(result)):
        picture = Picture()
        assert library.ldm_engine_result_image(result, c.c_size_t(i), c.byref(picture)) == OK
        shape = (picture.height, picture.width, 3)
        images.append(np.ctypeslib.as_array(picture.rgb, shape).copy())
    steps = library.ldm_engine_result_steps_run(result)
    library.ldm_engine_result_free(result)
    return code, np.stack(images), steps


def _error(library):
    return library.ldm_engine_last_error().decode()


def test_the_structs_here_are_those_of_the_header():
    for struct in (Options, Request, Info):
        names = [name for name, _ in struct._fields_]
        assert [n for n in names if not re.search(rf"[ *]{n};", HEADER)] == []


def test_images_are_those_of_python(library, shapes_bundle):
    code, pipeline = _open(library, shapes_bundle.path)
    assert code == OK, _error(library)
    settings = {"guidance_scales": [2.0, 6.0], "etas": [0.0, 0.5], "seeds": [3, 9]}
    request = _request(library, num_inference_steps=STEPS, **settings)
    code, images, steps = _generate(library, pipeline, PROMPTS, request)
    assert (code, steps) == (OK, STEPS), _error(library)
    python = LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime="openvino")
    expected = python(
        PROMPTS, num_inference_steps=STEPS, guidance_scale=[2.0, 6.0], eta=[0.0, 0.5],
        seed=[3, 9], output_type="np",
    ).images  # fmt: skip
    expected = (expected * 255).round().astype(int)
    assert np.abs(images.astype(int) - expected).max() <= PIXEL_TOLERANCE

    other = c.c_void_p()
    assert library.ldm_engine_clone(pipeline, c.byref(other)) == OK
    library.ldm_engine_close(pipeline)
    code, repeated, _ = _generate(library, other, PROMPTS, request)
    library.ldm_engine_close(other)
    np.testing.assert_array_equal(repeated, images)


def test_solvers_are_those_of_python(library, shapes_bundle, tmp_path):
    bundle = copy_with_tables(shapes_bundle, tmp_path / "bundle")
    code, pipeline = _open(library, bundle.path)
    assert code == OK, _error(library)
    python = LDMTextToImagePipeline.from_pretrained(bundle.path, runtime="openvino")
    for ours, theirs in (
        ({"num_inference_steps": AUTO_STEPS}, {"num_inference_steps": "auto"}),
        (
            {"solver": b"dpmsolver++", "timesteps": [999, 500, 100, 0]},
            {"solver": "dpmsolver++", "timesteps": [999, 500, 100, 0]},
        ),
    ):
        request = _request(library, guidance_scales=[6.0], seeds=[3], **ours)
        code, images, steps = _generate(library, pipeline, PROMPTS[:1], request)
        assert code == OK, _error(library)
        output = python(PROMPTS[:1], guidance_scale=6.0, seed=3, output_type="np", **theirs)
        expected = (output.images * 255).round().astype(int)
        assert steps == output.num_steps_run
        assert np.abs(images.astype(int) - expected).max() <= PIXEL_TOLERANCE
    request = _request(library, seeds=[3], solver=b"fitted", guidance_scales=[5.0])
    assert _generate(library, pipeline, PROMPTS[:1], request)[0] == INVALID_ARGUMENT
    assert "no fitted solver for a `guidance_scale` of 5, but for 6" in _error(library)
    request = _request(library, seeds=[3], solver_table=b"0" * 16)
    assert _generate(library, pipeline, PROMPTS[:1], request)[0] == INVALID_ARGUMENT
    library.ldm_engine_close(pipeline)


def _picture(pixels):
    return Picture(pixels.shape[1], pixels.shape[0], pixels.ctypes.data_as(c.POINTER(c.c_uint8)))


def test_pictures_are_started_from_as_in_python(library, shapes_bundle):
    code, pipeline = _open(library, shapes_bundle.path)
    assert code == OK, _error(library)
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[10:40, 20:50] = (200, 30, 40)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:32] = 255
    request = _request(
        library, num_inference_steps=8, guidance_scales=[2.0], seeds=[3], strength=0.75,
        pictures=[_picture(picture)], masks=[_picture(mask)],
    )  # fmt: skip
    code, images, steps = _generate(library, pipeline, PROMPTS, request)
    assert (code, steps) == (OK, 6), _error(library)
    python = LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime="openvino")
    expected = python(
        PROMPTS, num_inference_steps=8, guidance_scale=2.0, seed=3, image=picture,
        mask_image=mask[..., 0], strength=0.75, output_type="np",
    ).images  # fmt: skip
    assert np.abs(images - (expected * 255).round()).max() <= PIXEL_TOLERANCE
    np.testing.assert_array_equal(images[:, 32:], np.stack([picture[32:]] * len(PROMPTS)))
    for wrong, says in (
        ({"masks": [_picture(mask)]}, "without an `image`"),
        ({"pictures": [Picture(64, 64, None)]}, "`pictures` is NULL"),
        ({"pictures": [Picture(-1, 64, _picture(mask).rgb)]}, "sides from 1 to 8192"),
        ({"pictures": [_picture(picture)], "strength": 2.0}, "`strength` is 2"),
    ):
        request = _request(library, seeds=[3], **wrong)
        assert _generate(library, pipeline, PROMPTS, request)[0] != OK
        assert says in _error(library)
    library.ldm_engine_close(pipeline)


def test_a_binding_learns_how_long_latents_are(library, shapes_bundle):
    _, pipeline = _open(library, shapes_bundle.path, precision=b"fp32")
    info = Info(size=c.sizeof(Info))
    assert library.ldm_engine_pipeline_info(pipeline, c.byref(info)) == OK, _error(library)
    model = shapes_bundle.model
    assert (info.digest.decode(), info.source.decode()) == (shapes_bundle.digest, model.source)
    assert (info.runtime, info.precision, info.memory) == (b"openvino", b"fp32", b"resident")
    assert (info.default_size, info.pixel_multiple) == (model.default_size, model.pixel_multiple)
    assert (info.token_length, info.threads > 0) == (model.token_length, True)
    side = info.default_size // info.scale_factor
    count = info.latent_channels * side * side
    latents = (c.c_float * count)(*[0.5] * count)
    request = _request(library, num_inference_steps=1, latents=latents, latents_count=count)
    assert _generate(library, pipeline, PROMPTS[:1], request)[0] == OK, _error(library)
    request.latents_count = count - 1
    assert _generate(library, pipeline, PROMPTS[:1], request)[0] == SHAPE
    info.size = 8
    assert library.ldm_engine_pipeline_info(pipeline, c.byref(info)) == INVALID_ARGUMENT
    library.ldm_engine_close(pipeline)


def test_a_callback_sees_the_latents_and_stops(library, shapes_bundle):
    _, pipeline = _open(library, shapes_bundle.path)
    seen = []

    def on_step_end(user_data, step, timestep, latents, count):
        seen.append((step, timestep, np.ctypeslib.as_array(latents, (count,)).std()))
        return int(step == 2)

    request = _request(library, num_inference_steps=10, on_step_end=Callback(on_step_end))
    code, images, steps = _generate(library, pipeline, PROMPTS[:1], request)
    library.ldm_engine_close(pipeline)
    assert (code, steps, len(images)) == (OK, 3, 1)
    assert [s[0] for s in seen] == [0, 1, 2]
    assert all(s[2] > 0 for s in seen)


def test_failures_have_codes_and_the_texts_of_python(library, shapes_bundle, tmp_path):
    assert library.ldm_engine_version().decode() == __version__
    code, pipeline = _open(library, tmp_path / "none")
    assert (code, pipeline.value) == (NOT_FOUND, None)
    assert "There is no bundle folder" in _error(library)
    assert _open(library, tmp_path)[0] == BUNDLE
    assert "is not a finished bundle" in _error(library)
    assert _open(library, shapes_bundle.path, precision=b"fp8")[0] == INVALID_ARGUMENT
    assert _open(library, shapes_bundle.path, size=7)[0] == INVALID_ARGUMENT
    _, pipeline = _open(library, shapes_bundle.path)
    for settings, expected, text in (
        ({"height": 65}, SHAPE, "`height` is 65; multiples of 64"),
        ({"num_inference_steps": 0}, INVALID_ARGUMENT, "`num_inference_steps` is 0"),
        ({"etas": [2.0]}, INVALID_ARGUMENT, "`eta` is 2"),
        ({"seeds": [-1]}, INVALID_ARGUMENT, "`seed` asks for -1"),
        ({"seeds": [1, 2, 3]}, INVALID_ARGUMENT, "`seed` lists 3 seeds for 2 images"),
        ({"reserved": 1}, INVALID_ARGUMENT, "`reserved` must be 0"),
    ):
        assert _generate(library, pipeline, PROMPTS, _request(library, **settings))[0] == expected
        assert text in _error(library)
    library.ldm_engine_close(pipeline)
