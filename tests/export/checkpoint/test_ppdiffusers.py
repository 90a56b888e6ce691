"""A checkpoint as ppdiffusers 0.29 saves it, in both of its forms."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from ldm_engine.errors import ConfigError
from ldm_export.checkpoint import COMPONENTS, open_checkpoint
from ldm_export.exporter import export_bundle
from ldm_export.loading import read_configs

VERSION = {"_ppdiffusers_version": "0.29.0"}
#: Folder -> what ppdiffusers adds to its config, and the metadata of its weights.
FOLDERS = {
    "bert": ({"paddlenlp_version": None, "return_dict": True}, "model.safetensors", "np"),
    "unet": (
        {
            **VERSION, "data_format": "NCHW", "addition_embed_type": None,
            "addition_embed_type_num_heads": 64, "class_embed_type": None, "dropout": 0.0,
            "encoder_hid_dim": None, "resnet_out_scale_factor": 1.0, "upcast_attention": False,
            "reverse_transformer_layers_per_block": None, "time_cond_proj_dim": None,
        },
        "diffusion_paddle_model.safetensors",
        "pd",
    ),
    "vqvae": (
        {
            **VERSION, "down_block_out_channels": None, "up_block_out_channels": None,
            "force_upcast": True, "latents_mean": None, "latents_std": None, "shift_factor": None,
            "use_post_quant_conv": True, "use_quant_conv": True,
        },
        "diffusion_paddle_model.safetensors",
        "pd",
    ),
}  # fmt: skip
SCHEDULER = {
    **VERSION, "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.995,
    "prediction_type": "epsilon", "rescale_betas_zero_snr": False, "sample_max_value": 1.0,
    "set_alpha_to_one": True, "steps_offset": 0, "thresholding": False,
    "timestep_spacing": "leading",
}  # fmt: skip


def edit_json(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    content.pop("_diffusers_version", None)
    content.pop("transformers_version", None)
    path.write_text(json.dumps(content))


def is_linear(name, values):
    """Two dimensions are those of Linear weights, which Paddle has the other way, or embeddings."""
    return values.ndim == 2 and "embed_" not in name


@pytest.fixture(params=["pdparams", "safetensors"])
def saved(request, tiny_checkpoint, tmp_path):
    """The tiny checkpoint as ``save_pretrained(..., to_diffusers=False)`` writes it."""
    path = shutil.copytree(tiny_checkpoint, tmp_path / request.param)
    edit_json(path / "scheduler/scheduler_config.json", **SCHEDULER)
    for folder, (config, name, stored_by) in FOLDERS.items():
        edit_json(path / folder / "config.json", **config)
        (file,) = (path / folder).glob("*.safetensors")
        tensors = load_file(file)
        file.unlink()
        stored = {
            n: np.ascontiguousarray(v.T) if is_linear(n, v) else v for n, v in tensors.items()
        }
        if request.param == "pdparams":
            state = {n: paddle.to_tensor(v) for n, v in stored.items()}
            paddle.save(state, str(path / folder / "model_state.pdparams"))
        else:
            save_file(stored, path / folder / name, metadata={"format": stored_by})
    return path


def test_it_holds_what_the_diffusers_form_holds(saved, tiny_checkpoint):
    given, expected = open_checkpoint(saved), open_checkpoint(tiny_checkpoint)
    assert read_configs(given) == read_configs(expected)
    for component in COMPONENTS:
        state, original = given.load(component), expected.load(component)
        assert state.keys() == original.keys()
        for name, values in original.items():
            np.testing.assert_array_equal(state[name], values, err_msg=name)


@pytest.mark.parametrize("saved", ["safetensors"], indirect=True)
def test_its_bundle_has_the_same_programs_and_vocabulary(saved, tiny_bundle, tmp_path):
    made = export_bundle(open_checkpoint(saved), tmp_path / "bundle", formats=["paddle"])
    names = [*made.program_files_listed, "vocab.txt"]
    assert made.files_digest(names) == tiny_bundle.files_digest(names)


@pytest.mark.parametrize("saved", ["pdparams"], indirect=True)
def test_images_in_another_layout_are_refused_by_name(saved):
    edit_json(saved / "unet/config.json", data_format="NHWC")
    with pytest.raises(ConfigError, match="`data_format` is 'NHWC'; 'NCHW'"):
        read_configs(open_checkpoint(saved))


@pytest.mark.parametrize("saved", ["pdparams"], indirect=True)
@pytest.mark.parametrize("alias", ["hidden_size", "num_attention_heads"])
def test_two_names_of_one_number_that_differ_are_refused(saved, alias):
    edit_json(saved / "bert/config.json", **{alias: 48})
    with pytest.raises(ConfigError, match=f"`{alias}` 48"):
        open_checkpoint(saved)
