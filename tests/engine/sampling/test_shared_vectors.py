"""What both engines accept and refuse: cpp/tests holds the C++ one to the same files."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest

from conftest import DATA
from ldm_engine import NoiseSchedule, errors
from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.bundle.manifest import open_bundle, seal
from ldm_engine.bundle.model import ModelInfo, TokenizerInfo
from ldm_engine.bundle.seals import sealed
from ldm_engine.errors import ConfigError
from ldm_engine.sampling.fitted import Tables
from ldm_engine.sampling.request import resolve_request
from ldm_engine.sampling.settings import Limits
from ldm_engine.sampling.solvers_file import SEAL, parse_tables
from ldm_engine.sampling.tokenizer import PromptTruncatedWarning, Tokenizer

SOLVERS_FILES = json.loads((DATA / "solvers_files.json").read_text())
TEXTS = ("prompt", "negative_prompt", "solver", "solver_table")
REQUESTS = json.loads((DATA / "requests.json").read_text())
CONFIGS = json.loads((DATA / "scheduler_configs.json").read_text())
TOKENS = json.loads((DATA / "tokenizer.json").read_text())
MANIFESTS = json.loads((DATA / "manifests.json").read_text())


def _numbers(value):
    """`value` with the words for what JSON has no number for."""
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return {"nan": math.nan, "inf": math.inf}.get(value, value) if isinstance(value, str) else value


def _resolve(arguments):
    plain = {
        "prompt": ["a"], "negative_prompt": None, "height": None, "width": None,
        "num_inference_steps": 50, "guidance_scale": 1.0, "eta": 0.0, "seed": 5,
    }  # fmt: skip
    given = {n: v if n in TEXTS else _numbers(v) for n, v in arguments.items()}
    if "latents" in given:
        described = given["latents"]
        given["latents"] = np.full(described["shape"], _numbers(described["value"]), np.float32)
    for name in given.keys() & {"image", "mask_image"}:
        described = arguments[name]
        is_list = isinstance(described, list)
        pictures = [_picture(d) for d in (described if is_list else [described])]
        given[name] = pictures if is_list else pictures[0]
    schedule = NoiseSchedule.from_config(REQUESTS["scheduler"])
    latents = given.pop("latents", None)
    limits = Limits(ModelInfo(**REQUESTS["model"]), schedule, _tables(schedule))
    return resolve_request(limits, {**plain, **given}, latents)


def _picture(described):
    """A picture of one colour, or a mask of which a corner is white."""
    size = described["height"], described["width"]
    if "value" in described:
        return np.full((*size, 3), described["value"], np.uint8)
    mask = np.zeros(size, bool)
    if described["white"]:
        rows, columns = described["white"]
        mask[:rows, :columns] = True
    return mask


def _tables(schedule):
    text = sealed(SOLVERS_FILES["base"], SEAL)
    return Tables(parse_tables("solvers.json", text, SOLVERS_FILES["bundle"], schedule))


@pytest.mark.parametrize("case", REQUESTS["cases"], ids=lambda c: json.dumps(c["arguments"])[:70])
def test_requests(case):
    if case["error"] is not None:
        with pytest.raises(getattr(errors, case["error"])) as caught:
            _ = _resolve(case["arguments"]).inputs
        assert type(caught.value).__name__ == case["error"]
        assert case["says"] in str(caught.value)
        return
    request = _resolve(case["arguments"])
    guidance = None if request.guidance is None else request.guidance.reshape(-1).tolist()
    facts = {
        "seeds": list(request.seeds), "height": request.height, "width": request.width,
        "guidance": guidance, "texts": list(request.texts), "steps": len(request.rows),
        "kept": sum(int(given.keep.sum()) for given in request.inputs if given.keep is not None),
    }  # fmt: skip
    assert {name: facts[name] for name in case["expected"]} == case["expected"]


@pytest.mark.parametrize("case", CONFIGS["cases"], ids=lambda c: json.dumps(c["set"])[:70])
def test_scheduler_configs(case):
    config = {**CONFIGS["config"], **case["set"]}
    if case["named"] is None:
        NoiseSchedule.from_config(config)
        return
    with pytest.raises(ConfigError) as caught:
        NoiseSchedule.from_config(config)
    assert all(f"`{name}`" in str(caught.value) for name in case["named"])
    assert str(caught.value).count("\n  - ") == len(case["named"])
    assert case.get("says", "") in str(caught.value)


@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_tokens(case):
    length = TOKENS["token_length"]
    vocabulary = DATA / "wordpiece_vocab.txt"
    tokenizer = Tokenizer(
        vocabulary, length, TokenizerInfo("wordpiece", case == "uncased"), TOKENS["vocab_size"]
    )
    for entry in TOKENS["texts"]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PromptTruncatedWarning)
            ids = tokenizer([entry["text"]])[0].tolist()
        assert ids == entry[case] + [0] * (length - len(entry[case])), entry
        is_cut = any(isinstance(w.message, PromptTruncatedWarning) for w in caught)
        assert is_cut == (f"{case}_cut_bytes" in entry), entry


@pytest.mark.parametrize("options", TOKENS["options"], ids=lambda o: str(o["tokenizer"])[:80])
def test_tokens_by_the_options_of_a_bundle(options, tmp_path):
    manifest = {**MANIFESTS["base"], "tokenizer": options["tokenizer"]}
    (tmp_path / MANIFEST).write_bytes(seal(manifest))
    info = open_bundle(tmp_path).tokenizer
    length = TOKENS["token_length"]
    tokenizer = Tokenizer(DATA / "wordpiece_vocab.txt", length, info, 1 << 20)
    for entry in options["texts"]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PromptTruncatedWarning)
            ids = tokenizer([entry["text"]])[0].tolist()
        assert ids == entry["ids"] + [0] * (length - len(entry["ids"])), entry
        is_cut = any(isinstance(w.message, PromptTruncatedWarning) for w in caught)
        assert is_cut == ("cut_bytes" in entry), entry


@pytest.mark.parametrize("data", TOKENS["invalid"])
def test_bytes_that_are_not_utf8(data):
    with pytest.raises(UnicodeDecodeError):
        bytes.fromhex(data).decode()
