"""Writes manifests.json: which manifests both engines must refuse.

Each case names its base (``base``, of the version that is written, unless it says otherwise), what
is changed in it, and the error: its class and a part of its text that both languages have. A case
without an error is accepted, and its bundle has the digest that stands there, if one does; some
have the sentence on what lies ``outside`` its tolerance.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldm_engine.bundle.bundle import MANIFEST, REFERENCE, SCHEDULER_CONFIG, VOCABULARY
from ldm_engine.bundle.contract import PROGRAMS, TABLE, tensor_specs
from ldm_engine.bundle.formats import engine_file_name, program_file_names
from ldm_engine.bundle.manifest import FORMAT_VERSION, open_bundle, seal
from ldm_engine.bundle.model import ModelInfo

HERE = Path(__file__).parent
MODEL = {
    "source": "checkpoint",
    "latent_channels": 4,
    "scale_factor": 8,
    "size_multiple": 8,
    "sample_size": 32,
    "token_length": 77,
    "vocab_size": 30522,
    "time_shift_width": 20160,
    "text_kv_width": 24960,
}
UNET = ["programs", "unet"]
FILES = [*UNET, "formats", "openvino", "files"]


def base_manifest(names: Iterable[str] = PROGRAMS) -> dict[str, Any]:
    """A whole manifest of these programs, of files that are not there."""
    programs = {}
    for name in names:
        inputs, outputs = tensor_specs(name, ModelInfo(**MODEL))
        formats = {"openvino": "fp32", **({"openvino_int8": "int8"} if name == "unet" else {})}
        programs[name] = {
            "inputs": [vars(t) for t in inputs],
            "outputs": [vars(t) for t in outputs],
            "formats": {
                f: {"files": program_file_names(name, f), "weights": w} for f, w in formats.items()
            },
        }
    files = [SCHEDULER_CONFIG, VOCABULARY, REFERENCE]
    files += [f for p in programs.values() for e in p["formats"].values() for f in e["files"]]
    return {
        "format_version": FORMAT_VERSION,
        "manifest_sha256": "0" * 64,
        "model": MODEL,
        "tokenizer": {"kind": "wordpiece", "lowercase": True},
        "programs": programs,
        "files": {n: {"sha256": f"{i:064x}", "bytes": i} for i, n in enumerate(sorted(files))},
        "parity": {"openvino": {"fp32": {"unet": {"relative_l2_error": 1e-7, "tolerance": 1e-4}}}},
        "versions": {"ldm-engine": "0.1.0"},
    }


def encoder_manifest() -> dict[str, Any]:
    """The same with the optional program."""
    manifest = base_manifest(TABLE)
    return {**manifest, "files": manifest["files"] | base_manifest()["files"]}


def version_1_manifest() -> dict[str, Any]:
    """The same as version 1 had it."""
    manifest = base_manifest()
    tokenizer = manifest.pop("tokenizer")
    model = {**MODEL, "lowercase": tokenizer["lowercase"]}
    return {**manifest, "format_version": 1, "model": model}


def tensorrt_manifest() -> dict[str, Any]:
    """The same with programs for a GPU, and Paddle's, which they need."""
    manifest = base_manifest()
    for name, program in manifest["programs"].items():
        engines = [engine_file_name(name, number) for number in range(2)]
        for format_name, more in (("paddle", []), ("tensorrt", engines)):
            files = [*program_file_names(name, format_name), *more]
            program["formats"][format_name] = {"files": files, "weights": "fp32"}
            manifest["files"] |= {f: {"sha256": "", "bytes": 1} for f in files}
    manifest["formats"] = {"tensorrt": {"precision": "fp16", "gpu": "A GPU"}}
    return manifest


def tensorrt_cases() -> list[dict[str, Any]]:
    """Programs for a GPU: any number of engines, and facts that only their own runtime reads."""
    invalid = {"base": "tensorrt_base", "error": "BundleError", "says": "is not a valid manifest"}
    files = [*UNET, "formats", "tensorrt", "files"]
    first, second = (engine_file_name("unet", number) for number in range(2))
    graph = list(program_file_names("unet", "tensorrt"))
    return [
        {"base": "tensorrt_base", "path": [], "error": None},
        *({**invalid, "path": files, "value": v, "says": "files of unet"}
          for v in ([*graph, second], [*graph, first, first], [first], [])),
        {"base": "tensorrt_base", "path": files, "value": graph, "error": None},
        {"base": "tensorrt_base", "path": ["formats"], "remove": True, "error": None},
        *({"base": "tensorrt_base", "path": ["formats", "tensorrt", "gpu"], "value": v,
           "error": None} for v in (None, 1, [{}])),
    ]  # fmt: skip


def version_1_cases() -> list[dict[str, Any]]:
    """What version 1 had in another place, and what it did not have."""
    base = {"base": "version_1_base"}
    invalid = {**base, **INVALID}
    return [
        {**base, "path": [], "error": None},
        {**base, "path": ["model", "lowercase"], "value": False, "error": None},
        {**invalid, "path": ["model", "lowercase"], "remove": True, "says": "lowercase"},
        *({**invalid, "path": ["model", "lowercase"], "value": v} for v in (1, 0, "true", None)),
        *({**invalid, "path": ["model"], "value": v} for v in (None, 1, "x", [1])),
        {**base, "path": ["tensorrt"], "value": {"precision": "fp16"}, "error": None},
        *({**invalid, "path": ["tensorrt"], "value": v} for v in (None, 1, "x", [1])),
        {**base, "path": ["tokenizer"], "value": {"kind": "other"}, "error": None},
        {**base, "path": ["formats"], "value": 1, "error": None},
        {**base, "path": ["more"], "value": 1, "error": None},
    ]  # fmt: skip


def encoder_cases() -> list[dict[str, Any]]:
    """An optional program: it counts for itself, and not for pictures from text."""
    base = {"base": "encoder_base"}
    files = program_file_names("vae_encoder", "openvino")
    same = {**base, "error": None, "digest": digest(base_manifest())}
    outside = {"relative_l2_error": 1, "tolerance": 0.03}
    parity = ["parity", "openvino", "bf16"]
    return [
        {**same, "path": []},
        {**same, "path": ["files", files[0], "sha256"], "value": "another"},
        {**same, "path": ["programs", "vae_encoder"], "remove": True},
        {**same, "path": ["files", "a note"], "value": {"sha256": "", "bytes": 0}},
        {**same, "path": ["files", REFERENCE, "sha256"], "value": "another"},
        {**same, "path": parity, "value": {"vae_encoder": outside},
         "outside": {"runtime": "openvino", "precision": "bf16", "says": ""}},
        {**same, "path": parity, "value": {"vae_encoder": outside, "unet": outside},
         "outside": {"runtime": "openvino", "precision": "bf16",
                     "says": "unet, relative error 1, tolerance 0.03"}},
        {**base, **INVALID, "path": ["files", files[1]], "remove": True, "says": files[1]},
        {**base, **setting(["programs", "vae_encoder", "outputs"], [], "tensors of vae_encoder")},
    ]  # fmt: skip


def newer_cases() -> list[dict[str, Any]]:
    """What a newer kind of this version may hold, and what must not be ignored."""
    newer = {"error": "BundleError", "says": "was written for a newer version of ldm-engine"}
    encoder = {
        "inputs": [vars(t) for t in tensor_specs("vae_encoder", ModelInfo(**MODEL))[0]],
        "outputs": [vars(t) for t in tensor_specs("vae_encoder", ModelInfo(**MODEL))[1]],
        "formats": {"openvino": {"files": program_file_names("unet", "openvino"),
                                 "weights": "fp32"}},
    }  # fmt: skip
    own = {"openvino": {"files": ["vae_encoder/openvino_model.xml"], "weights": "fp32"}}
    return [
        *({"path": [*path, "more"], "value": v, "error": None} for v in (None, 1, [{}])
          for path in (["model"], UNET, [*UNET, "inputs", 0], [*UNET, "formats", "openvino"],
                       ["files", VOCABULARY], ["parity", "openvino", "fp32", "unet"])),
        {"path": ["model", "lowercase"], "value": 1, "error": None},
        {"path": ["tensorrt"], "value": 1, "error": None},
        {"path": ["programs", "upscaler"], "value": {"inputs": 1}, "error": None},
        {"path": ["programs", "upscaler"], "value": None, "error": None},
        {"path": ["programs", "vae_encoder"], "value": {**encoder, "formats": {}}, "error": None},
        setting(["programs", "vae_encoder"], encoder, "files of vae_encoder"),
        setting(["programs", "vae_encoder"], {**encoder, "formats": own}, "files of vae_encoder"),
        setting(["programs", "vae_encoder"], {**encoder, "inputs": []},
                "the tensors of vae_encoder"),
        setting(["programs", "vae_encoder"], None),
        {"path": ["formats"], "value": {}, "error": None},
        {"path": ["formats"], "value": {"onnx": {"opset": 17}, "own": {}}, "error": None},
        *(setting(["formats"], v) for v in (None, 1, "x", [1], {"onnx": 1}, {"onnx": None})),
        {"path": ["tokenizer", "lowercase"], "value": False, "error": None},
        *({"path": ["tokenizer", k], "remove": True, **INVALID, "says": k}
          for k in ("kind", "lowercase")),
        *(setting(["tokenizer", "lowercase"], v) for v in (1, 0, "true", None)),
        *(setting(["tokenizer", "kind"], v) for v in (1, None, [])),
        {"path": ["tokenizer", "kind"], "value": "unigram", **newer, "says": "kind `unigram`"},
        {"path": ["tokenizer", "kind"], "value": "wordpiece ", **newer},
        {"path": ["tokenizer", "stem"], "value": None, **newer, "says": "tokenizer has `stem`"},
        {"path": ["tokenizer", "stem"], "value": True, **newer},
        {"path": ["tokenizer"], "value": {"kind": "unigram"}, **newer},
    ]  # fmt: skip


def tokenizer_cases() -> list[dict[str, Any]]:
    """All that may be said of a tokenizer, and what is none of it."""
    token = {"content": "<x>", "id": 30521}
    tokens = ["tokenizer", "added_tokens"]
    newer = {"error": "BundleError", "says": "an added token has `stem`"}
    return [
        *({"path": ["tokenizer", k], "value": v, "error": None} for k, v in (
            ("strip_accents", None), ("strip_accents", True), ("strip_accents", False),
            ("handle_chinese_chars", False), ("clean_text", False),
            ("max_input_chars_per_word", 7), ("continuing_subword_prefix", "@@"),
            ("unk_token", "<unk>"), ("cls_token", "<s>"), ("sep_token", "</s>"),
            ("pad_token", "<pad>"), ("added_tokens", []), ("added_tokens", [token]),
            ("added_tokens", [{**token, "special": True, "normalized": False, "lstrip": True,
                               "single_word": True, "rstrip": True}]))),
        *(setting(["tokenizer", k], v) for k in ("strip_accents", "handle_chinese_chars",
          "clean_text") for v in (1, "true", [])),
        *(setting(["tokenizer", k], None) for k in ("handle_chinese_chars", "clean_text")),
        *(setting(["tokenizer", "max_input_chars_per_word"], v)
          for v in (-1, 2**31, 2**70, 1.5, "4", None, True)),
        *(setting(["tokenizer", k], v) for k in ("unk_token", "cls_token", "sep_token",
          "pad_token", "continuing_subword_prefix") for v in ("", 1, None, [])),
        *(setting(tokens, v) for v in (None, 1, {}, [1], ["<x>"], [{}], [[]],
          [{"content": "<x>"}], [{"id": 5}], [{**token, "id": -1}], [{**token, "id": "5"}],
          [{**token, "id": 2**31}], [{**token, "content": ""}], [{**token, "content": None}],
          [{**token, "special": 1}], [{**token, "lstrip": None}])),
        *(setting(tokens, [token, {**token, **more}], "have the same")
          for more in ({"content": "<y>"}, {"id": 5})),
        {"path": tokens, "value": [{**token, "stem": True}], **newer},
    ]  # fmt: skip


INVALID = {"error": "BundleError", "says": "is not a valid manifest"}
UNREADABLE = {"error": "BundleError", "says": "cannot be read"}


def setting(path: list[Any], value: Any, says: str = "") -> dict[str, Any]:
    """A value that is refused."""
    return {"path": path, "value": value, **INVALID, **({"says": says} if says else {})}


def outline_cases() -> list[dict[str, Any]]:
    """The whole, its hash and version, and the keys at its top."""
    return [
        {"path": [], "error": None},
        {"path": ["files", "a note"], "value": {"sha256": "", "bytes": 0}, "error": None},
        {"path": ["more"], "value": [1, {}], "error": None},
        {"path": ["model", "source"], "value": "caf\u00e9 \U0001f600", "error": None},
        {"path": ["model", "source"], "value": "x", "seal": False, "error": "BundleError",
         "says": "was altered"},
        {"path": ["manifest_sha256"], "value": None, "seal": False, "error": "BundleError",
         "says": "was altered"},
        {"path": ["manifest_sha256"], "value": "0", "seal": False, "error": "BundleError",
         "says": "was altered"},
        *({"path": ["format_version"], "value": v, "error": "BundleError",
           "says": "has format version"} for v in (-1, 0, 3, "2", 2.0, True, None, [])),
        {"path": ["format_version"], "remove": True, "error": "BundleError",
         "says": "has format version"},
        *({"path": [k], "remove": True, **INVALID}
          for k in ("model", "tokenizer", "programs", "files", "parity", "versions")),
        *({"path": [k], "value": v, **INVALID}
          for k in ("model", "tokenizer", "programs", "files", "parity")
          for v in (None, 1, "x", [1])),
    ]  # fmt: skip


def model_cases() -> list[dict[str, Any]]:
    """Facts of the model."""
    return [
        *({"path": ["model", k], "remove": True, **INVALID, "says": k} for k in MODEL),
        *(setting(["model", k], v, k if type(v) is int else "") for k in MODEL
          for v in (-1, 0, 2**31, 2**70, 1.5, "4", None, [], {}) if MODEL[k] != v
          and type(MODEL[k]) is int),
        *(setting(["model", "source"], v) for v in (1, None, [])),
        setting(["model", "sample_size"], 12, "do not divide"),
        setting(["model", "sample_size"], 1032, "larger than"),
        setting(["model", "scale_factor"], 2**30, "larger than"),
        setting(["model", "text_kv_width"], 24961, "the tensors of text_encoder"),
        setting(["model", "latent_channels"], 8, "the tensors of unet"),
    ]  # fmt: skip


def program_cases() -> list[dict[str, Any]]:
    """Programs, their tensors and their files."""
    return [
        *({"path": ["programs", p], "remove": True, **INVALID, "says": p} for p in PROGRAMS),
        *({"path": [*UNET, k], "remove": True, **INVALID, "says": k}
          for k in ("inputs", "outputs", "formats")),
        setting([*UNET, "inputs"], [], "the tensors of unet"),
        setting([*UNET, "inputs", 0, "shape"], [1, 4, 32, 32], "the tensors of unet"),
        setting([*UNET, "inputs", 0, "shape", 0], "any"),
        setting([*UNET, "inputs", 0, "dtype"], "float16", "the tensors of unet"),
        setting([*UNET, "inputs", 0, "name"], 7),
        setting([*UNET, "outputs", 0], None),
        setting(FILES, ["unet/openvino_model.bin", "unet/openvino_model.xml"], "files of unet"),
        setting(FILES, [], "files of unet"),
        *(setting([*FILES, 0], name, "leads outside") for name in (
            "../model.xml", "/etc/passwd", "unet/../../x", "", ".", "..", "a\\b", "a\u0000b")),
        setting([*FILES, 0], 5),
        {"path": [*FILES, 0], "value": "./unet//openvino_model.xml", "error": None},
        setting([*UNET, "formats", "openvino", "weights"], 32),
        {"path": [*UNET, "formats", "own"], "value": {"files": [VOCABULARY], "weights": "x"},
         "error": None},
        setting([*UNET, "formats", "own"], {"files": ["none"], "weights": "x"}, "is missing"),
    ]  # fmt: skip


def file_cases() -> list[dict[str, Any]]:
    """Files, parity and versions."""
    return [
        *({"path": ["files", n], "remove": True, **INVALID, "says": n}
          for n in (SCHEDULER_CONFIG, VOCABULARY, REFERENCE, "unet/openvino_model.bin")),
        setting(["files", "../x"], {"sha256": "", "bytes": 0}, "leads outside"),
        setting(["files", "x" * 256], {"sha256": "", "bytes": 0}, "is longer than 255 bytes"),
        {"name": "a name of 255 bytes", "path": ["files", "x" * 255],
         "value": {"sha256": "", "bytes": 0}, "error": None},
        setting(["files", VOCABULARY, "sha256"], None),
        setting(["files", VOCABULARY, "bytes"], "1"),
        setting(["files", VOCABULARY, "bytes"], 1.5),
        setting(["files", VOCABULARY], []),
        setting(["parity", "openvino", "fp32", "unet"], {}, "relative_l2_error"),
        setting(["parity", "openvino", "fp32"], []),
        setting(["parity", "openvino", "fp32", "unet", "tolerance"], None),
        setting(["versions"], {"x": 1}),
    ]  # fmt: skip


def parity_cases() -> list[dict[str, Any]]:
    """Precisions within their tolerances and outside: of which both engines have one sentence."""

    def case(programs: Any, outside: str) -> dict[str, Any]:
        return {
            "path": ["parity", "openvino", "bf16"],
            "value": programs,
            "error": None,
            "outside": {"runtime": "openvino", "precision": "bf16", "says": outside},
        }

    def parity(error: float, tolerance: float = 0.03, **words: str) -> dict[str, Any]:
        return {"relative_l2_error": error, "tolerance": tolerance, **words}

    return [
        case({"unet": parity(0.03)}, ""),
        case({"unet": parity(0.03, case="batch 2")}, ""),
        case({"unet": parity(0.0429117, case="batch 2, 64x128, guided"), "vae_decoder": parity(0)},
             "unet, batch 2, 64x128, guided: relative error 0.0429, tolerance 0.03"),
        case({"vae_decoder": parity(2), "end_to_end": parity(1e-5, 2.5e-6, more=1)},
             "end_to_end, relative error 1e-05, tolerance 2.5e-06; "
             "vae_decoder, relative error 2, tolerance 0.03"),
        case({"unet": parity(1e300, case="opening", note="It fails.")}, "unet, opening: It fails."),
        case({"unet": parity(1e300)}, "unet, no finite values"),
        case({"unet": parity(12345678.9, 100)}, "unet, relative error 1.23e+07, tolerance 100"),
        *(setting(["parity", "openvino", "bf16"], {"unet": parity(1, **{word: 1})})
          for word in ("case", "note")),
        setting(["parity", "openvino", "bf16"], {"unet": parity(1, case=None)}),
    ]  # fmt: skip


def text_cases() -> list[dict[str, Any]]:
    """Files that hold no manifest at all."""
    texts = {
        "empty": "", "not JSON": "{", "cut": '{"format_version": 1', "after the end": "{} {}",
        "single quotes": "{'a': 1}", "a comment": "{} // x", "a byte order mark": "\ufeff{}",
        "half a character": '{"format_version": 1, "manifest_sha256": "\\ud800"}',
    }  # fmt: skip
    cases: list[dict[str, Any]] = [{"name": n, "text": t, **UNREADABLE} for n, t in texts.items()]
    cases += [
        {"name": n, "repeat": t, **UNREADABLE} for n, t in (("lists", "["), ("objects", '{"a":'))
    ]
    cases += [
        {"name": t, "text": t, "error": "BundleError", "says": "a JSON object is expected"}
        for t in ("[]", "null", "1")
    ]
    return cases


def manifest_cases() -> list[dict[str, Any]]:
    """What is set or removed, at which path; without `seal` the hash is not put right after.

    Others hold a whole `text`, or what is to be written 100,000 times (`repeat`).
    """
    cases = [*outline_cases(), *model_cases(), *program_cases(), *file_cases(), *text_cases()]
    cases += [*parity_cases(), *encoder_cases()]
    cases += [*tensorrt_cases(), *version_1_cases(), *newer_cases()]
    cases += tokenizer_cases()
    for case in cases:
        if "base" not in case and case.get("path", [])[:1] == ["tokenizer"] and not case["error"]:
            manifest = base_manifest()
            manifest["tokenizer"] = {**manifest["tokenizer"], case["path"][1]: case["value"]}
            case["digest"] = digest(manifest)
    for number, case in enumerate(cases):
        case.setdefault("name", f"{number} {'.'.join(map(str, case.get('path', [])))}"[:80])
    return cases


def digest(manifest: dict[str, Any]) -> str:
    """The digest of the bundle that `manifest` describes."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(seal(manifest))
        return open_bundle(folder).digest


def write(name: str, content: Any) -> None:
    """One line an entry of the list `cases`."""
    cases = content.pop("cases")
    head = json.dumps(content, indent=1)[:-2]
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / f"{name}.json").write_text(f'{head},\n "cases": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    bases = {
        "base": base_manifest(),
        "version_1_base": version_1_manifest(),
        "tensorrt_base": tensorrt_manifest(),
        "encoder_base": encoder_manifest(),
    }
    write("manifests", {**bases, "cases": manifest_cases()})
