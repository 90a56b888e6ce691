"""What the log ``ldm_engine`` gives an application that listens; another one gets nothing."""

from __future__ import annotations

import logging
import subprocess
import sys

from ldm_engine import LDMTextToImagePipeline

SCRIPT = """
import sys
import paddle  # which makes the root logger print what is of level INFO
from ldm_engine import LDMTextToImagePipeline
pipe = LDMTextToImagePipeline.from_pretrained(sys.argv[1])
pipe("a", num_inference_steps=1, seed=0, output_type="latent")
"""


def test_each_event_is_logged(copy_bundle, caplog):
    caplog.set_level(logging.INFO, "ldm_engine")
    with LDMTextToImagePipeline.from_pretrained(copy_bundle()) as pipe:
        pipe("a", num_inference_steps=1, seed=[7])
    said = [record.getMessage() for record in caplog.records if record.name == "ldm_engine"]
    begun = ["opened the bundle", "the runtime is paddle, in fp32", "hashed", "loaded the program",
             "rendering 1 images of 64x64 pixels in 1 steps, seeds (7,)",
             "prepared the program unet for latents [1, 4, 8, 8]", "rendered 1 images"]  # fmt: skip
    places = [next(i for i, text in enumerate(said) if text.startswith(b)) for b in begun]
    assert places == sorted(places)


def test_a_level_that_was_set_before_the_import_stays(tiny_bundle):
    first = (
        "import logging; logging.basicConfig(); logging.getLogger('ldm_engine').setLevel('INFO')"
    )
    done = subprocess.run(
        [sys.executable, "-c", first + SCRIPT, tiny_bundle.path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "INFO:ldm_engine:loaded the program" in done.stderr


def test_nothing_is_printed_where_no_one_listens(tiny_bundle):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tiny_bundle.path], capture_output=True, text=True, check=True
    )
    assert "program" not in done.stdout + done.stderr
