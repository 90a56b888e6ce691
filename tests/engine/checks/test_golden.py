from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldm_engine.checks import golden
from ldm_engine.checks.golden import check_golden, why_not_applicable


@pytest.fixture
def published_bundle(tiny_bundle, tmp_path):
    """The facts and the vocabulary of the published model, over the tiny one's files."""
    words = ["[PAD]", *(f"[unused{i}]" for i in range(1, 30522))]
    for index, word in {100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}.items():
        words[index] = word
    for word, index in golden._PUBLISHED_IDS.items():
        words[index] = word
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return replace(tiny_bundle, path=tmp_path, model=replace(tiny_bundle.model, **golden._LARGE))


def test_it_applies_to_the_published_model_only(published_bundle, tiny_bundle):
    assert why_not_applicable(published_bundle) is None
    assert "sample_size is 8" in why_not_applicable(tiny_bundle)
    vocabulary = published_bundle.vocabulary
    vocabulary.write_text(vocabulary.read_text().replace("\nof\n", "\non\n"))
    assert "bert-base-uncased" in why_not_applicable(published_bundle)


def test_it_compares_the_published_slice(tiny_pipe, monkeypatch):
    assert not check_golden(tiny_pipe).passed
    latents = np.random.RandomState(0).standard_normal((1, 4, 8, 8))
    image = tiny_pipe(
        ["A painting of a squirrel eating a burger"],
        num_inference_steps=3,
        guidance_scale=6.0,
        latents=latents,
        output_type="np",
    ).images
    monkeypatch.setattr(golden, "EXPECTED_SLICE", image[0, -3:, -3:, -1] + 9e-4)
    assert check_golden(tiny_pipe).passed
    monkeypatch.setattr(golden, "EXPECTED_SLICE", image[0, -3:, -3:, -1] + 1.1e-3)
    assert not check_golden(tiny_pipe).passed
