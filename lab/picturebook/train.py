"""Trains the picture-book model from scratch; the same command picks up where it was stopped.

    python -m lab.picturebook.train work=runs/picturebook out=examples/models/picturebook

Draws the training scenes, trains the vision tower on patch labels, freezes it and writes down its features, trains
projector and language model from text alone, and saves the model. Every value of `TrainConfig` can be set the same way,
for example `scenes=2000 tower.steps=500 device=cuda`.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from omegaconf import OmegaConf
from tqdm import tqdm

from lab.base.arguments import typed_options
from lab.base.console import CONTINUES, exit_in_one_line
from lab.picturebook.drawing import draw, encode
from lab.picturebook.fit import StageConfig, fit
from lab.picturebook.language import CPU_ATTENTION, answer_loss, pack, silent_heads
from lab.picturebook.model import GRID, make_model, make_tokenizer, save
from lab.picturebook.tower import LabelledTower, features, tower_batch, tower_loss
from llava.conversation import CONVERSATIONS

log = logging.getLogger(__name__)


@dataclass
class LanguageConfig(StageConfig):
    """Stage 2, on top of what every stage has."""

    questions: int = 16  # per image and step
    kept_share: float = 0.4  # image tokens shown, until `settle` of the steps are done
    blind_share: float = 0.5  # questions whose earlier tokens cannot see the image, until `settle`
    silent_share: float = 0.25  # heads silenced per image, from `silence_from` until `settle`
    silence_from: float = 0.4  # share of the steps after which heads fall silent
    settle: float = 0.8  # share of the steps after which every image token is shown
    later_words: float = 0.4  # weight of the answer's words after the first


@dataclass
class TrainConfig:
    """Everything that decides the result."""

    work: str = "runs/picturebook"  # scenes, features, checkpoints and logs
    out: str = "examples/models/picturebook"  # the finished model
    device: str = "cpu"
    seed: int = 0
    workers: int = 2  # processes that draw
    scenes: int = 24000
    held_out: int = 400  # the last scenes, never trained on: the figures in the log
    questions: int = 24  # drawn per scene
    tower: StageConfig = field(default_factory=lambda: StageConfig(steps=1900, batch=32, lr=2e-3))
    language: LanguageConfig = field(default_factory=lambda: LanguageConfig(steps=2000, batch=24, lr=2e-3))


def train(config: TrainConfig) -> None:
    """Runs both stages; every step's batch depends on the seed and the step alone."""
    work, device = Path(config.work), torch.device(config.device)
    work.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), work / "config.yaml")
    draw(work / "data", config.scenes, config.questions, config.workers)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed=config.seed).to(device)
    train_tower(model, config, work, device)
    write_features(model, config, work, device)
    train_language(model, config, work, device)
    model.eval()
    save(model.cpu(), tokenizer, Path(config.out))
    log.info("saved %s", config.out)


def train_tower(model, config: TrainConfig, work: Path, device: torch.device) -> None:
    """Stage 1, in place."""
    pixels, labels = (np.load(work / "data" / f"{name}.npy", mmap_mode="r") for name in ("pixels", "labels"))
    torch.manual_seed(config.seed)
    labelled = LabelledTower(model.model.vision_tower).to(device)

    def loss(step: int):
        batch = tower_batch(pixels, labels, step, config.tower.batch, config.held_out, device)
        with torch.autocast(device.type, torch.bfloat16):
            return tower_loss(labelled, *batch)

    @torch.inference_mode()
    def check() -> dict[str, float]:
        parts = [slice(i, i + 50) for i in range(len(pixels) - config.held_out, len(pixels), 50)]
        numbers = [
            tower_loss(labelled, *(torch.from_numpy(a[p]).to(device) for a in (pixels, labels)))[1] for p in parts
        ]
        return {f"held_out_{k}": float(np.mean([n[k] for n in numbers])) for k in numbers[0]}

    fit(labelled, loss, config.tower, work, "tower", check)


@torch.inference_mode()
def write_features(model, config: TrainConfig, work: Path, device: torch.device) -> None:
    """The frozen tower's output for every scene: float16 [N, V, D] in `features.npy`."""
    target, done = work / "features.npy", work / "features.done"
    if done.exists():
        return
    pixels = np.load(work / "data" / "pixels.npy", mmap_mode="r")
    tower = model.model.vision_tower.eval()
    array = open_memmap(target, "w+", dtype=np.float16, shape=(len(pixels), GRID * GRID, tower.config.hidden_size))
    for start in tqdm(range(0, len(pixels), 64), desc="features", mininterval=10):
        part = torch.from_numpy(pixels[start : start + 64]).to(device)
        array[start : start + 64] = features(tower, part).cpu().numpy()
    array.flush()
    done.touch()


def train_language(model, config: TrainConfig, work: Path, device: torch.device) -> None:
    """Stage 2, in place; the vision tower stays as it is."""
    cfg = config.language
    seen = np.load(work / "features.npy", mmap_mode="r")
    ids, spans = (np.load(work / "data" / f"{name}.npy") for name in ("questions", "spans"))
    prefix = [make_tokenizer().bos_token_id, *encode(CONVERSATIONS["referseg"].system + "\n")]
    model.model.vision_tower.requires_grad_(False)
    model.set_attn_implementation({"text_config": CPU_ATTENTION if device.type == "cpu" else "sdpa"})

    def batch_loss(
        index: np.ndarray, rng: np.random.Generator, kept: float = 1.0, blind: float = 0.0, silent: float = 0.0
    ):
        chosen = np.stack([rng.choice(ids.shape[1], cfg.questions, replace=False) for _ in index])
        questions = ids[index[:, None], chosen], spans[index[:, None], chosen]
        packed = pack(*questions, prefix, GRID * GRID, rng, kept_share=kept, blind_share=blind)
        batch = torch.from_numpy(seen[index].astype(np.float32)).to(device)
        with torch.autocast(device.type, torch.bfloat16), silent_heads(model, silent, rng):
            return answer_loss(model, batch, packed, cfg.later_words)

    def loss(step: int):
        rng = np.random.default_rng([config.seed, step, 12])
        index = np.sort(rng.choice(len(ids) - config.held_out, cfg.batch, replace=False))
        if step >= cfg.settle * cfg.steps:
            return batch_loss(index, rng)
        silent = cfg.silent_share if step >= cfg.silence_from * cfg.steps else 0.0
        return batch_loss(index, rng, cfg.kept_share, cfg.blind_share, silent)

    @torch.inference_mode()
    def check() -> dict[str, float]:
        rng = np.random.default_rng([config.seed, 13])
        held_out = np.arange(len(ids) - config.held_out, len(ids))
        numbers = [batch_loss(part, rng)[1] for part in np.array_split(held_out, max(1, len(held_out) // 40))]
        return {f"held_out_{k}": float(np.mean([n[k] for n in numbers])) for k in numbers[0]}

    fit(model, loss, cfg, work, "language", check, check_every=250)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line(again=CONTINUES):
        train(typed_options(TrainConfig, sys.argv[1:]))
