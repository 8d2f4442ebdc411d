"""One training loop for both stages.

Warm-up and cosine, Muon and AdamW, checkpoints to resume from, a log of JSON lines.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass
class StageConfig:
    """One stage of training."""

    steps: int
    batch: int  # images per step
    lr: float  # peak learning rate, of AdamW and (RMS-matched) of Muon
    warmup: int = 100  # steps
    final_lr: float = 0.05  # share of the peak at the end of the cosine
    weight_decay: float = 0.05
    clip: float = 1.0  # gradient norm
    checkpoint_every: int = 200  # steps


APART = ("embed", "lm_head", "heads", "rel_pos", "mask_tokens", "iou_token")  # matrices that are tables, in fact


def optimizers(module: nn.Module, config: StageConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, heads, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and not any(part in name for part in APART)
        (matrices if inner else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adamw]


def learning_rate(step: int, config: StageConfig) -> float:
    """Linear warm-up, then a cosine down to `final_lr` of the peak."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def fit(
    module: nn.Module,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    config: StageConfig,
    folder: Path,
    name: str,
    check: Callable[[], dict[str, float]] | None = None,
    check_every: int = 500,
) -> None:
    """Minimises `loss(step)` over the parameters of `module`; picks up the checkpoint in `folder` if there is one.

    Args:
        loss: the step's loss, a scalar, and numbers to log with it; must draw its batch from the step number alone.
        check: measured every `check_every` steps and at the end, on data held out from training.
    """
    checkpoint = folder / f"{name}.pt"
    optimisers = optimizers(module, config)
    start = 0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        for optimiser, saved in zip(optimisers, state["optimizers"], strict=True):
            optimiser.load_state_dict(saved)
        start = state["step"]

    def save(step: int) -> None:
        state = {"module": module.state_dict(), "optimizers": [o.state_dict() for o in optimisers], "step": step}
        torch.save(state, partial := checkpoint.with_suffix(".partial"))
        partial.replace(checkpoint)

    began = time.time()
    with (
        (folder / f"{name}.log.jsonl").open("a") as log,
        tqdm(range(start, config.steps), desc=name, mininterval=10) as bar,
    ):
        for step in bar:
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(step, config)
            value, numbers = loss(step)
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), config.clip)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            numbers = {"loss": value.item(), **numbers}
            last = step + 1 == config.steps
            if (step + 1) % check_every == 0 or last:
                numbers |= check() if check else {}
            if step % 20 == 0 or (step + 1) % check_every == 0 or last:
                bar.set_postfix({k: f"{v:.3f}" for k, v in numbers.items()}, refresh=False)
                entry = {
                    "step": step + 1,
                    "seconds": round(time.time() - began, 1),
                    **{k: round(v, 4) for k, v in numbers.items()},
                }
                log.write(json.dumps(entry) + "\n")
                log.flush()
            if (step + 1) % config.checkpoint_every == 0 or last:
                save(step + 1)
