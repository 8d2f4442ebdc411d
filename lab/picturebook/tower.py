"""Stage 1: the vision tower learns what covers each patch, which stands in for CLIP's pretraining."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from lab.picturebook.drawing import LABELS
from lab.picturebook.model import GRID, MEAN, STD


class LabelledTower(nn.Module):
    """The vision tower and, on every patch token, a linear classifier for each attribute, its row and its column."""

    def __init__(self, tower: CLIPVisionModel):
        super().__init__()
        self.tower = tower
        self.sizes = [*(len(values) + 1 for values in LABELS.values()), GRID, GRID]
        self.heads = nn.Linear(tower.config.hidden_size, sum(self.sizes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, S, S, 3] -> logits per attribute, each [B, V, values]."""
        return self.heads(features(self.tower, pixels)).split(self.sizes, dim=-1)


def features(tower: nn.Module, pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> what the projector reads: the last layer's patch tokens, class token dropped, [B, V, D]."""
    mean, std = (torch.tensor(v, device=pixels.device) for v in (MEAN, STD))
    normalised = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)  # [B, S, S, 3] -> [B, 3, S, S]
    return tower(pixel_values=normalised, output_hidden_states=True).hidden_states[-1][:, 1:]


def tower_loss(model: LabelledTower, pixels: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the patch labels uint8 [B, V, 4] (0 = background), and the share of right foreground patches."""
    logits = model(pixels)
    labels = labels.long()
    foreground = labels[..., 0] > 0
    weight = torch.where(foreground, 1.0, 0.3)
    loss = torch.zeros((), device=pixels.device)
    right = torch.ones_like(foreground)
    for index in range(len(LABELS)):
        per_patch = F.cross_entropy(logits[index].float().flatten(0, 1), labels[..., index].flatten(), reduction="none")
        loss = loss + (per_patch * weight.flatten()).sum() / weight.sum()
        right &= logits[index].argmax(-1) == labels[..., index]
    places = torch.arange(GRID * GRID, device=pixels.device).expand(len(labels), -1)
    for logit, place in ((logits[-2], places // GRID), (logits[-1], places % GRID)):
        loss = loss + 0.05 * F.cross_entropy(logit.float().flatten(0, 1), place.flatten())
    return loss, {"foreground": right[foreground].float().mean().item(), "all": right.float().mean().item()}


def tower_batch(
    pixels: np.ndarray, labels: np.ndarray, step: int, batch: int, held_out: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The scenes of one step, drawn by the step number from all but the last `held_out`."""
    index = np.sort(np.random.default_rng([step, 11]).choice(len(pixels) - held_out, batch, replace=False))
    return torch.from_numpy(pixels[index]).to(device), torch.from_numpy(labels[index]).to(device)
