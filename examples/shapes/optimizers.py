"""How the shapes model's weights are moved: Muon and AdamW, averaged weights, a clock."""

from __future__ import annotations

import math
import time

import torch
from torch import nn


class Muon:
    """Orthogonalised momentum for weight matrices, scaled to AdamW's step size.

    Source: https://kellerjordan.github.io/posts/muon/
    """

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        self.lr = lr
        self.groups: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in params:
            self.groups.setdefault((p.shape[0], p[0].numel()), []).append(p)
        self.momentum = {shape: torch.zeros(len(ps), *shape) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, lr_factor: float) -> None:
        """One update of all matrices, those of one shape together."""
        for shape, params in self.groups.items():
            grads = torch.stack([p.grad.reshape(shape) for p in params])
            momentum = self.momentum[shape].lerp_(grads, 0.05)
            update = orthogonalize(grads.lerp(momentum, 0.95))
            scale = self.lr * lr_factor * 0.2 * math.sqrt(max(shape))
            for p, u in zip(params, update, strict=True):
                p.sub_(u.reshape(p.shape), alpha=scale)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Push all singular values towards 1 by Newton-Schulz steps: [n, rows, columns] float32."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)).bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x if wide else x.mT).float()


class Optimizer:
    """Muon for hidden weight matrices, AdamW for all else, one learning-rate factor for both."""

    def __init__(
        self, named: list[tuple[str, nn.Parameter]], lr: float, adam_only: tuple[str, ...]
    ) -> None:
        matrices = [
            p for name, p in named if p.ndim >= 2 and not any(word in name for word in adam_only)
        ]
        chosen = {id(p) for p in matrices}
        self.params = [p for _, p in named]
        self.muon = Muon(matrices, lr)
        self.adam = torch.optim.AdamW(
            [p for p in self.params if id(p) not in chosen],
            lr=lr,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self.lr = lr

    def step(self, lr_factor: float, grad_norm: float) -> None:
        """One update with gradients clipped to norm 1, given their norm."""
        if grad_norm > 1:
            torch._foreach_mul_([p.grad for p in self.params], 1 / grad_norm)
        self.muon.step(lr_factor)
        for group in self.adam.param_groups:
            group["lr"] = self.lr * lr_factor
        self.adam.step()
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {"momentum": self.muon.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take up a `state_dict`."""
        self.muon.momentum = state["momentum"]
        self.adam.load_state_dict(state["adam"])


class Ema:
    """A running average of parameters whose memory grows with the run."""

    def __init__(
        self, params: list[nn.Parameter], limit: float, average: list[torch.Tensor], updates: int
    ) -> None:
        self.params, self.limit, self.average, self.updates = params, limit, average, updates

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        self.updates += 1
        decay = min(self.limit, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - decay)


class Clock:
    """Training time spent, over all resumed runs, as a fraction of what was planned."""

    def __init__(self, minutes: float, spent_s: float = 0.0) -> None:
        self.planned_s, self.start = minutes * 60, time.monotonic() - spent_s

    @property
    def spent_s(self) -> float:
        """Seconds spent so far."""
        return time.monotonic() - self.start

    def lr_factor(self, step: int, warmup_steps: int = 100) -> float:
        """Linear warm-up by steps, then a cosine to zero at the planned end."""
        fraction = min(1.0, self.spent_s / self.planned_s)
        return min(1.0, (step + 1) / warmup_steps) * 0.5 * (1 + math.cos(math.pi * fraction))

    @property
    def is_over(self) -> bool:
        """True once the planned time is spent."""
        return self.spent_s >= self.planned_s
