"""Renders from a bundle with NumPy and OpenVINO alone, as docs/bundle-format.md describes it.

    python one_file.py my-model "a large blue star on the right" --guidance-scale 2 --seed 0

Nothing of ldm-engine is imported. It draws in fp32 with DDIM; text beyond ASCII and tokenizers with
more options are refused, fitted solvers and pictures as input left out.
"""

import argparse
import hashlib
import json
import math
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from openvino import Core

REFUSED = re.compile(r"[^ -~]|\[(UNK|SEP|CLS|PAD|MASK)\]")
WORDS = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9 ]")  # of printable ASCII
SCHEDULER_DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading",
}  # fmt: skip


def read_manifest(bundle):
    """What bundle.json says, once the seals of all files hold."""
    data = (bundle / "bundle.json").read_bytes()
    manifest = json.loads(data)
    if manifest["format_version"] != 2 or set(manifest["tokenizer"]) != {"kind", "lowercase"}:
        sys.exit("Bundles of version 2 are read, with a tokenizer of `kind` and `lowercase` alone.")
    seal = manifest["manifest_sha256"]
    is_whole = hashlib.sha256(data.replace(seal.encode(), b"0" * 64)).hexdigest() == seal
    for name, file in manifest["files"].items():
        is_whole &= hashlib.sha256((bundle / name).read_bytes()).hexdigest() == file["sha256"]
    return manifest if is_whole else sys.exit("The bundle is damaged: export it again.")


def tokenize(text, vocabulary, lowercase):
    """The ids of a text, each word in its longest pieces from the left."""
    if refused := REFUSED.search(text):
        sys.exit(f"{text!r} holds {refused[0]!r}; ASCII without special tokens is tokenized here.")
    ids = []
    for word in WORDS.findall(text.lower() if lowercase else text):
        pieces, rest = [], word
        while rest and len(word) <= 100:
            starts = (rest[:n] for n in range(len(rest), 2 if pieces else 0, -1))
            if (piece := next((s for s in starts if s in vocabulary), None)) is None:
                break
            pieces.append(vocabulary[piece])
            rest = "##" + rest[len(piece) :] if piece != rest else ""
        ids += [vocabulary["[UNK]"]] if rest else pieces
    return ids


def ddim(config, steps, eta):
    """Timesteps, and the weights a, b, s of each step."""
    config = SCHEDULER_DEFAULTS | config
    trained, start, end = (config[k] for k in ("num_train_timesteps", "beta_start", "beta_end"))
    if config["beta_schedule"] == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), trained) ** 2
    else:
        betas = np.linspace(start, end, trained)
    alphas = np.cumprod(np.float32(1) - betas.astype(np.float32), dtype=np.float64)
    alphas = alphas.astype(np.float32).tolist()
    if config["timestep_spacing"] == "leading":
        timesteps = np.arange(steps)[::-1] * (trained // steps) + config["steps_offset"]
    else:
        timesteps = np.linspace(0, trained - 1, steps).round()[::-1]
    rows = []
    for t in timesteps.astype(int).tolist():
        now, before = alphas[min(t, trained - 1)], t - trained // steps
        then = alphas[before] if before >= 0 else 1.0 if config["set_alpha_to_one"] else alphas[0]
        s = eta * math.sqrt(max((1 - then) / (1 - now) * (1 - now / then), 0))
        a = math.sqrt(then / now)
        rows.append((a, math.sqrt(max(1 - then - s * s, 0)) - math.sqrt(1 - now) * a, s))
    return np.minimum(timesteps, trained - 1), rows


def png(pixels):
    """An 8-bit RGB array [H, W, 3] as a PNG file."""
    head = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in pixels))
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + head, b"IDAT" + data, b"IEND"):
        file += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file


def main():
    parser = argparse.ArgumentParser(description="Renders pictures from a bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("prompt")
    defaults = {"negative-prompt": "", "guidance-scale": 6.0, "num-inference-steps": 50, "eta": 0.0}
    for name, value in (defaults | {"seed": 0, "num-images": 1, "output": Path()}).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()

    manifest, core, compiled = read_manifest(args.bundle), Core(), {}
    model, scale, count = manifest["model"], args.guidance_scale, args.num_images

    def run(name, **inputs):
        """One output of a program, which is compiled for the first shapes that it is given."""
        if name not in compiled:
            graph = manifest["programs"][name]["formats"]["openvino"]["files"][0]
            program = core.read_model(args.bundle / graph)
            program.reshape({key: list(array.shape) for key, array in inputs.items()})
            compiled[name] = core.compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return compiled[name](inputs)[0]

    lines = (args.bundle / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {token: i for i, token in enumerate(lines) if token}

    def encode(text):
        ids = tokenize(text, vocabulary, manifest["tokenizer"]["lowercase"])
        ids = ["[CLS]", *ids[: model["token_length"] - 2], "[SEP]"]
        ids += ["[PAD]"] * (model["token_length"] - len(ids))
        return run("text_encoder", input_ids=np.array([[vocabulary.get(i, i) for i in ids]]))

    texts = [args.negative_prompt, args.prompt] if scale != 1 else [args.prompt]
    text_kv = np.repeat(np.concatenate([encode(t) for t in texts]), count, axis=0)
    config = json.loads((args.bundle / "scheduler_config.json").read_text())
    timesteps, rows = ddim(config, args.num_inference_steps, args.eta)
    shifts = run("time_encoder", timesteps=timesteps.astype(np.float32))

    streams = [np.random.RandomState(args.seed + i) for i in range(count)]
    shape = (model["latent_channels"], model["sample_size"], model["sample_size"])

    def noise():
        return np.stack([s.standard_normal(shape).astype(np.float32) for s in streams])

    x = noise()
    for shift, (a, b, s) in zip(shifts, rows, strict=True):
        eps = run("unet", latents=x, time_shift=shift[None], text_kv=text_kv)
        if scale != 1:
            u, t = np.split(eps, 2)
            eps = u + scale * (t - u)
        x = a * x + b * eps + (s * noise() if s > 0 else 0)
    args.output.mkdir(parents=True, exist_ok=True)
    for seed, latents in enumerate(x, args.seed):
        image = run("vae_decoder", latents=latents[None])[0]
        (args.output / f"{seed}.png").write_bytes(png((image * 255).round().astype(np.uint8)))


if __name__ == "__main__":
    main()
