"""Trains the shapes model from nothing and writes it as a checkpoint; it measures nothing."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from torch import nn
from transformers import BertTokenizer

import drawing
from optimizers import Clock, Ema, Optimizer

LATENT_CHANNELS = 4
AUTOENCODER_CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 48, 64, 96),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 16,
    "sample_size": drawing.IMAGE_SIZE,
}
TOKEN_LENGTH = 77
TEXT_WIDTH = 128
BERT_CONFIG = {
    "vocab_size": len(drawing.vocabulary()),
    "max_position_embeddings": TOKEN_LENGTH,
    "encoder_layers": 4,
    "encoder_ffn_dim": 4 * TEXT_WIDTH,
    "encoder_attention_heads": 4,
    "head_dim": 32,
    "activation_function": "gelu",
    "d_model": TEXT_WIDTH,
    "dropout": 0.0,
    "pad_token_id": 0,
}
UNET_CONFIG = {
    "sample_size": drawing.IMAGE_SIZE // 8,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (96, 128, 96, 64),
    "layers_per_block": 1,
    "attention_head_dim": 4,  # the number of heads, as in the published config
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 32,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
SCHEDULER_CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
}
EMPTY_PROMPT_SHARE = 0.1
WORDINGS = 4  # captions drawn for each cached picture
NOISES = 2  # noised copies of each picture in a batch, so the text encoder runs on half of it
SNR_LIMIT = 5.0  # min-SNR weighting, https://arxiv.org/abs/2303.09556


def save_atomically(state: dict, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def pictures(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Fresh training pictures: [count, 3, 64, 64] float32 in [-1, 1]."""
    drawn = np.stack([drawing.render(rng, drawing.sample_scene(rng)) for _ in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def edge_weights(images: torch.Tensor) -> torch.Tensor:
    """1 on flat areas, 4 around edges: [B, 1, 64, 64]."""
    mixed = images[:, :1] + 2 * images[:, 1:2] + 3 * images[:, 2:]
    high = F.max_pool2d(mixed, 5, stride=1, padding=2)
    low = -F.max_pool2d(-mixed, 5, stride=1, padding=2)
    return 1 + 3 * (high - low > 0.1).float()


def reconstruction_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    error = decoded.float() - images
    return ((error.abs() + 2 * error.square()) * edge_weights(images)).mean()


def train_autoencoder(work: Path, minutes: float, batch: int, lr: float, seed: int) -> None:
    """Reconstruction with extra weight on edges and a light pull of the latents to a normal."""
    path = work / "autoencoder.pt"
    torch.manual_seed(seed)
    model = AutoencoderKL(**AUTOENCODER_CONFIG)
    nn.init.constant_(
        model.quant_conv.bias.data[LATENT_CHANNELS:], -5.0
    )  # else noise drowns the start
    adam_only = ("conv_in", "conv_out", "quant_conv")
    optimizer = Optimizer(list(model.named_parameters()), lr, adam_only)
    average = [p.detach().clone() for p in optimizer.params]
    step, clock = 0, Clock(minutes)
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, clock = state["ema"], state["step"], Clock(minutes, state["spent_s"])
    ema = Ema(optimizer.params, 0.998, average, step)
    rng = np.random.default_rng([seed, 1, step])
    saved, running = time.monotonic(), 0.0

    def save() -> None:
        save_atomically(
            {
                "model": model.state_dict(),
                "ema": ema.average,
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent_s": clock.spent_s,
            },
            path,
        )

    while not clock.is_over:
        images = pictures(rng, batch)
        with torch.autocast("cpu", torch.bfloat16):
            mean, logvar = model.quant_conv(model.encoder(images)).float().chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            latents = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
            decoded = model.decoder(model.post_quant_conv(latents))
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        reconstruction = reconstruction_loss(decoded, images)
        (reconstruction + 3e-4 * kl).backward()
        grad_norm = nn.utils.get_total_norm([p.grad for p in optimizer.params]).item()
        optimizer.step(clock.lr_factor(step), grad_norm)
        ema.update()
        step += 1
        with torch.no_grad():
            psnr = (
                -10 * ((decoded.float().clamp(-1, 1) - images) / 2).square().mean().log10().item()
            )
        running = psnr if running == 0 else 0.95 * running + 0.05 * psnr
        if step % 50 == 0 or step < 5:
            print(
                f"autoencoder {step} {clock.spent_s:.0f}s loss {reconstruction.item():.4f} "
                f"kl {kl.item():.2f} psnr {running:.2f} dB std {mean.std().item():.3f}",
                flush=True,
            )
        if time.monotonic() - saved > 60:
            save()
            saved = time.monotonic()
    save()


def load_autoencoder(work: Path) -> AutoencoderKL:
    """The averaged autoencoder, without its scaling factor."""
    model = AutoencoderKL(**AUTOENCODER_CONFIG)
    average = torch.load(work / "autoencoder.pt")["ema"]
    for p, value in zip(model.parameters(), average, strict=True):
        p.data.copy_(value)
    return model.eval().requires_grad_(False)


def write_tokenizer(folder: Path) -> BertTokenizer:
    """A bert-base-uncased style tokenizer over the small vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(drawing.vocabulary()) + "\n", encoding="utf-8")
    special = {
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    config = {
        **special,
        "do_lower_case": True,
        "model_max_length": TOKEN_LENGTH,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", config)
    return BertTokenizer.from_pretrained(folder)


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def token_ids(tokenizer: BertTokenizer, captions: list[str]) -> torch.Tensor:
    """[CLS] caption [SEP] [PAD]...: [n, 77] uint8, enough for this vocabulary."""
    batch = tokenizer(captions, padding="max_length", max_length=TOKEN_LENGTH, truncation=True)
    return torch.tensor(batch["input_ids"], dtype=torch.uint8)


@torch.inference_mode()
def cache_latents(work: Path, count: int, seed: int) -> None:
    """Draw training pictures once and keep their latents and several wordings of each."""
    rng = np.random.default_rng([seed, 2])
    model, tokenizer = load_autoencoder(work), write_tokenizer(work / "tokenizer")
    latents, ids = [], []
    for done in range(0, count, 250):
        scenes = [drawing.sample_scene(rng) for _ in range(250)]
        drawn = np.stack([drawing.render(rng, scene) for scene in scenes])
        images = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
        captions = [drawing.sample_caption(rng, s)[0] for s in scenes for _ in range(WORDINGS)]
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(model.encode(images).latent_dist.mode().float())
        ids.append(token_ids(tokenizer, captions).reshape(250, WORDINGS, TOKEN_LENGTH))
        if done % 5000 == 0:
            print(f"latents {done}", flush=True)
    data = {"latents": torch.cat(latents), "ids": torch.cat(ids)}
    data["scaling_factor"] = 1 / data["latents"].std().item()
    data["empty"] = token_ids(tokenizer, [""])[0]
    print(f"latents {count} scaling_factor {data['scaling_factor']:.5f}", flush=True)
    save_atomically(data, work / "latents.pt")


class Denoiser(nn.Module):
    """The text encoder and the UNet, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = LDMBertModel(LDMBertConfig(**BERT_CONFIG))
        self.bert.to_logits.requires_grad_(False)
        for p in self.bert.to_logits.parameters():
            nn.init.zeros_(p)  # never used: zeros, so that nothing in the file is arbitrary
        self.unet = UNet2DConditionModel(**UNET_CONFIG)

    def forward(self, ids: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ids [b, 77], noisy [NOISES * b, 4, 8, 8], t [NOISES * b] -> noise like `noisy`."""
        text = self.bert(ids).last_hidden_state.repeat(NOISES, 1, 1)
        return self.unet(noisy, t, encoder_hidden_states=text).sample


@dataclass
class Shared:
    """What the denoiser's worker processes hold in common, all of it in shared memory."""

    model: Denoiser
    average: list[torch.Tensor]
    grads: torch.Tensor  # [workers, trained parameters] float32
    norms: (
        torch.Tensor
    )  # [workers] float32, squared norms of each worker's share of the mean gradient
    control: torch.Tensor  # [3] float64: learning-rate factor, save now, stop now
    barrier: Barrier


def trained_parameters(model: Denoiser) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def train_denoiser(
    work: Path, minutes: float, batch: int, lr: float, seed: int, workers: int
) -> None:
    """Noise prediction on cached latents, with the prompt left empty in a tenth of them.

    One single-threaded process for each core, each with its share of the batch and of the weights
    to update: the tensors are too small to keep several threads busy.
    """
    torch.manual_seed(seed + 1)
    model, step, spent_s = Denoiser(), 0, 0.0
    average = [p.detach().clone() for _, p in trained_parameters(model)]
    if (work / "denoiser.pt").exists():
        state = torch.load(work / "denoiser.pt")
        model.load_state_dict(state["model"])
        average, step, spent_s = state["ema"], state["step"], state["spent_s"]
    model.share_memory()
    count = sum(p.numel() for p in average)
    shared = Shared(
        model,
        [p.share_memory_() for p in average],
        torch.zeros(workers, count).share_memory_(),
        torch.zeros(workers).share_memory_(),
        torch.zeros(3, dtype=torch.float64).share_memory_(),
        torch.multiprocessing.get_context("spawn").Barrier(workers),
    )
    arguments = (workers, shared, work, Clock(minutes, spent_s), step, batch // workers, lr, seed)
    torch.multiprocessing.spawn(denoiser_worker, arguments, nprocs=workers)


def denoiser_worker(
    rank: int,
    workers: int,
    shared: Shared,
    work: Path,
    clock: Clock,
    step: int,
    batch: int,
    lr: float,
    seed: int,
) -> None:
    """One process's part of every training step."""
    torch.set_num_threads(1)
    torch.manual_seed((seed + 2) * 1_000_003 + step * workers + rank)
    data = torch.load(work / "latents.pt")
    shared.model.unet.set_attn_processor(AttnProcessor())  # its backward is 3 times as fast here
    named = trained_parameters(shared.model)
    offsets = np.cumsum([0, *(p.numel() for _, p in named)])
    by_size = sorted(range(len(named)), key=lambda i: (-named[i][1].numel(), named[i][1].shape))
    mine = sorted(by_size[rank::workers])
    optimizer = Optimizer([named[i] for i in mine], lr, ("conv_in", "conv_out", "embed_"))
    optimizer_path = work / f"denoiser-optimizer-{rank}.pt"
    if step and optimizer_path.exists():
        optimizer.load_state_dict(torch.load(optimizer_path))
    ema = Ema(optimizer.params, 0.999, [shared.average[i] for i in mine], step)
    saved, running = time.monotonic(), 0.0
    while not shared.control[2]:
        loss, error = denoising_loss(shared.model, data, batch)
        loss.backward()
        torch.cat([p.grad.flatten() for _, p in named], out=shared.grads[rank])
        for _, p in named:
            p.grad = None
        if rank == 0:
            save_now = time.monotonic() - saved > 90 or clock.is_over
            saved = time.monotonic() if save_now else saved
            shared.control[:] = torch.tensor([clock.lr_factor(step), save_now, clock.is_over])
        shared.barrier.wait()
        for i in mine:
            mean = shared.grads[:, offsets[i] : offsets[i + 1]].mean(0)
            named[i][1].grad = mean.reshape(named[i][1].shape)
        shared.norms[rank] = sum(p.grad.square().sum() for p in optimizer.params)
        shared.barrier.wait()
        optimizer.step(shared.control[0].item(), shared.norms.sum().sqrt().item())
        ema.update()
        step += 1
        save_now = bool(shared.control[1])
        shared.barrier.wait()
        running = error if running == 0.0 else 0.98 * running + 0.02 * error
        if rank == 0 and (step % 50 == 0 or step < 5):
            print(f"denoiser {step} {clock.spent_s:.0f}s loss {running:.5f}", flush=True)
        if save_now:
            save_atomically(optimizer.state_dict(), optimizer_path)
        if save_now and rank == 0:
            state = {"model": shared.model.state_dict(), "ema": shared.average}
            save_atomically({**state, "step": step, "spent_s": clock.spent_s}, work / "denoiser.pt")


def denoising_loss(model: Denoiser, data: dict, batch: int) -> tuple[torch.Tensor, float]:
    """The weighted loss to minimise on a random batch, and the plain mean squared error."""
    latents, alphas_cumprod = data["latents"], DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod
    snr = alphas_cumprod / (1 - alphas_cumprod)
    chosen = torch.randint(len(latents), (batch // NOISES,))
    ids = data["ids"][chosen, torch.randint(WORDINGS, chosen.shape)].long()
    ids[torch.rand(len(ids)) < EMPTY_PROMPT_SHARE] = data["empty"].long()
    clean = (latents[chosen] * data["scaling_factor"]).repeat(NOISES, 1, 1, 1)
    noise, t = torch.randn_like(clean), torch.randint(len(snr), (len(clean),))
    a = alphas_cumprod[t].view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(ids, a.sqrt() * clean + (1 - a).sqrt() * noise, t)
    error = (predicted.float() - noise).square().mean((1, 2, 3))
    return (error * (snr[t].clamp(max=SNR_LIMIT) / snr[t])).mean(), error.mean().item()


def export(work: Path, out: Path) -> None:
    """Write the averaged weights in float16, in the published layout of the diffusers model."""
    denoiser = Denoiser()
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    for p, value in zip(trained, torch.load(work / "denoiser.pt")["ema"], strict=True):
        p.data.copy_(value)
    autoencoder = load_autoencoder(work)
    autoencoder.register_to_config(scaling_factor=torch.load(work / "latents.pt")["scaling_factor"])
    out.mkdir(parents=True, exist_ok=True)
    autoencoder.half().save_pretrained(out / "vqvae")
    denoiser.unet.half().save_pretrained(out / "unet")
    denoiser.bert.half().save_pretrained(out / "bert")
    bert_config = json.loads((out / "bert" / "config.json").read_text(encoding="utf-8"))
    write_json(out / "bert" / "config.json", {**bert_config, "dtype": "float32"})  # load as float32
    write_tokenizer(out / "tokenizer")
    scheduler = DDIMScheduler(**SCHEDULER_CONFIG)
    scheduler.save_pretrained(out / "scheduler")
    write_json(
        out / "model_index.json",
        {
            "_class_name": "LDMTextToImagePipeline",
            "_diffusers_version": scheduler.config["_diffusers_version"],
            "bert": ["latent_diffusion", "LDMBertModel"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "tokenizer": ["transformers", "BertTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vqvae": ["diffusers", "AutoencoderKL"],
        },
    )
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("autoencoder", "latents", "denoiser", "export"))
    parser.add_argument("--work", type=Path, required=True, help="folder for progress and latents")
    parser.add_argument("--out", type=Path, help="export: the checkpoint folder")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="planned wall time of the stage"
    )
    parser.add_argument("--pictures", type=int, default=60_000, help="latents: how many")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="cores to use")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "autoencoder":
        train_autoencoder(args.work, args.minutes, args.batch, args.lr, args.seed)
    elif args.stage == "latents":
        cache_latents(args.work, args.pictures, args.seed)
    elif args.stage == "denoiser":
        train_denoiser(args.work, args.minutes, args.batch, args.lr, args.seed, args.threads)
    elif args.out is None:
        parser.error("export needs --out FOLDER.")
    else:
        export(args.work, args.out)


if __name__ == "__main__":
    main()
