"""Trains the SAM in miniature from scratch; the same command picks up where it was stopped.

    python -m lab.picturebook.sam.train work=runs/picturebook_sam out=examples/models/picturebook_sam

Draws the training scenes once, takes the tower of the picture-book model, trains on boxes, points and coarse masks that
are a little off, first without the tower and then with it, and saves the model.
Every value of `SamTrainConfig` can be set the same way, for example `scenes=500 all.steps=100`.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from lab.base.arguments import typed_options
from lab.base.console import CONTINUES, exit_in_one_line
from lab.picturebook.fit import StageConfig, fit
from lab.picturebook.sam import asking
from lab.picturebook.sam.loss import DENSE, DenseSam, coverage, dense_loss, mask_loss, normalised
from lab.picturebook.sam.model import make_sam, save, start_tower
from lab.picturebook.sam.scenes import draw

log = logging.getLogger(__name__)

KINDS = {"box": 0.45, "points": 0.25, "box+points": 0.15, "mask": 0.15}  # shares of the steps
MULTIMASK = 0.4  # share of the steps that ask for three masks, of which the best one counts
SMALLEST = 120  # pixels of a thing that is asked for


@dataclass
class SamTrainConfig:
    """Everything that decides the result."""

    work: str = "runs/picturebook_sam"  # scenes, checkpoint and log
    out: str = "examples/models/picturebook_sam"  # the finished model
    device: str = "cpu"
    seed: int = 0
    workers: int = 2  # processes that draw
    scenes: int = 4000
    held_out: int = 200  # the last scenes, never trained on: the figures in the log
    prompts: int = 4  # per picture and step
    tower: str = "examples/models/picturebook"  # the model whose vision tower is the start
    # What boxes and points mean, while tower and neck stand still; then all together.
    prompts_only: StageConfig = field(
        default_factory=lambda: StageConfig(steps=1650, batch=8, lr=2e-3, checkpoint_every=50, weight_decay=0.02)
    )
    all: StageConfig = field(
        default_factory=lambda: StageConfig(steps=850, batch=8, lr=1.5e-3, checkpoint_every=50, weight_decay=0.02)
    )


@dataclass
class Asked:
    """The prompts of one step, all of one kind."""

    prompts: dict[str, Tensor]  # as SamModel takes them
    truth: Tensor  # float [B, P, M, M]


def train(config: SamTrainConfig) -> None:
    """Every step's batch depends on the seed and the step alone."""
    work, device = Path(config.work), torch.device(config.device)
    work.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), work / "config.yaml")
    draw(work / "data", config.scenes, config.workers)
    pixels, owners = (np.load(work / "data" / f"{name}.npy", mmap_mode="r") for name in ("pixels", "owner"))
    sam = make_sam(seed=config.seed)
    llava = LlavaForConditionalGeneration.from_pretrained(config.tower, dtype=torch.float32)
    start_tower(sam, llava.model.vision_tower, normalised(torch.from_numpy(np.array(pixels[:32]))))
    model = DenseSam(sam).to(device)
    for number, (name, stage) in enumerate({"prompts_only": config.prompts_only, "all": config.all}.items()):
        model.sam.vision_encoder.requires_grad_(name == "all")
        train_stage(model, config, name, stage, number, pixels, owners)
    save(model.sam.cpu().eval(), Path(config.out))
    log.info("saved %s", config.out)


def train_stage(
    model: DenseSam,
    config: SamTrainConfig,
    name: str,
    stage: StageConfig,
    number: int,
    pixels: np.ndarray,
    owners: np.ndarray,
) -> None:
    """One stage, in place."""
    device = torch.device(config.device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([config.seed, step, 21, number])
        index = np.sort(rng.choice(len(pixels) - config.held_out, stage.batch, replace=False))
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        embeddings, shown, edges = model(torch.from_numpy(pixels[index]).to(device))
        asked = ask(owners[index], kind, config.prompts, rng)
        logits, estimates = answer(model, embeddings, asked, multimask=rng.random() < MULTIMASK)
        masks, iou = mask_loss(logits, estimates, asked.truth.to(device))
        dense = dense_loss(shown, edges, owners[index])
        return masks + DENSE * dense, {"iou": iou.item(), "dense": dense.item()}

    @torch.inference_mode()
    def check() -> dict[str, float]:
        """The IoU on scenes that were held out, for every kind of prompt, of the single mask."""
        rng = np.random.default_rng([config.seed, 22])
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for start in range(len(pixels) - config.held_out, len(pixels), stage.batch):
            part = slice(start, start + stage.batch)
            embeddings = model(torch.from_numpy(np.array(pixels[part])).to(device))[0]
            for kind, ious in found.items():
                asked = ask(owners[part], kind, 2, rng)
                ious.append(mask_loss(*answer(model, embeddings, asked), asked.truth.to(device))[1].item())
        return {f"held_out_{kind}": float(np.mean(ious)) for kind, ious in found.items()}

    fit(model, loss, stage, Path(config.work), name, check, check_every=250)


def ask(owners: np.ndarray, kind: str, count: int, rng: np.random.Generator) -> Asked:
    """`count` prompts of one kind about random things of each scene; `owners` are int8 [B, S, S]."""
    masks = np.stack([_things(owner, count, rng) for owner in owners])  # [B, P, S, S]
    prompts: dict[str, Tensor] = {}
    if kind != "points":
        prompts["input_boxes"] = _each(masks, lambda mask, _: asking.box(mask, rng))
    if "points" in kind:
        positives, negatives = int(rng.integers(1, 4)), int(rng.integers(0, 3))
        prompts["input_points"] = _each(
            masks, lambda mask, owner: asking.points(mask, owner, positives, negatives, rng), owners
        )
        labels = torch.tensor([1] * positives + [0] * negatives)
        prompts["input_labels"] = labels.expand(*masks.shape[:2], -1)
    if kind == "mask":
        prompts["input_masks"] = _each(masks, lambda mask, _: asking.heat(mask, rng))
    return Asked(prompts, coverage(torch.from_numpy(masks)))


def _things(owner: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    sizes = np.bincount(owner[owner >= 0])
    seen = np.flatnonzero(sizes >= min(SMALLEST, sizes.max()))
    return np.stack([owner == thing for thing in rng.choice(seen, count, replace=len(seen) < count)])


def _each(masks: np.ndarray, prompt, owners: np.ndarray | None = None) -> Tensor:
    given = owners if owners is not None else [None] * len(masks)
    return torch.from_numpy(
        np.stack([np.stack([prompt(mask, owner) for mask in row]) for row, owner in zip(masks, given, strict=True)])
    )


def answer(model: DenseSam, embeddings: Tensor, asked: Asked, *, multimask: bool = False) -> tuple[Tensor, Tensor]:
    """Masks [B, P, K, M, M] and estimates [B, P, K]. A mask that is put in needs its picture's embedding for itself."""
    prompts = {name: value.to(embeddings.device) for name, value in asked.prompts.items()}
    batch, count = asked.truth.shape[:2]
    if "input_masks" in prompts:
        embeddings = embeddings.repeat_interleave(count, 0)
        prompts = {name: value.flatten(0, 1)[:, None] for name, value in prompts.items()}  # [B, P, ...] -> [BP, 1, ...]
    said = model.sam(image_embeddings=embeddings, **prompts, multimask_output=multimask)
    return said.pred_masks.reshape(batch, count, *said.pred_masks.shape[2:]), said.iou_scores.reshape(batch, count, -1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line(again=CONTINUES):
        train(typed_options(SamTrainConfig, sys.argv[1:]))
