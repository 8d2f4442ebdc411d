"""What the miniature SAM learns: masks from prompts, its own IoU, and, while it trains, what every cell belongs to."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamModel

from lab.picturebook.model import MEAN, STD
from lab.picturebook.sam.model import GRID, IMAGE_SIZE, MASK_SIZE, PATCH_SIZE, WIDTH

FINE = MASK_SIZE // GRID  # mask pixels along a cell
CROSS_ENTROPY = 5.0  # weights of the loss beside those of the dice and the IoU estimate, 1
DENSE = 1.0


class DenseSam(nn.Module):
    """SAM and, on every cell of its image embedding, linear heads that are thrown away once it is trained.

    They say which mask pixels of the cell show a thing and how far the edges of that thing's box are: the tower learns
    from every pixel at once what a thing is, not only from the few that prompts ask for.
    """

    def __init__(self, sam: SamModel):
        super().__init__()
        self.sam = sam
        self.heads = nn.Conv2d(WIDTH, FINE * FINE + 4, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [B, S, S, 3] -> embeddings [B, D, G, G], thing or not [B, M, M] and box edges [B, 4, G, G]."""
        with torch.autocast(pixels.device.type, torch.bfloat16):  # get_image_embeddings has no gradient
            embeddings = self.sam.vision_encoder(normalised(pixels)).last_hidden_state
        embeddings = embeddings.float()  # places in prompts need more than eight bits
        dense = self.heads(embeddings)
        return embeddings, F.pixel_shuffle(dense[:, :-4], FINE)[:, 0], dense[:, -4:]


def normalised(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> float [B, 3, S, S] as the processor makes it."""
    mean, std = (torch.tensor(v, device=pixels.device) for v in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def coverage(masks: Tensor) -> Tensor:
    """Masks bool [..., S, S] -> the covered share of every mask pixel, float [..., M, M]."""
    shape = (MASK_SIZE, IMAGE_SIZE // MASK_SIZE)
    return masks.float().unflatten(-1, shape).unflatten(-3, shape).mean((-1, -3))


def dense_loss(shown: Tensor, edges: Tensor, owners: np.ndarray) -> Tensor:
    """Cross-entropy of thing or background, and the error of the box edges as a share of the picture, on things."""
    things = torch.from_numpy(owners >= 0)
    loss = F.binary_cross_entropy_with_logits(shown.float(), coverage(things).to(shown.device))
    truth, known = cell_edges(owners)
    off = F.smooth_l1_loss(edges.float(), truth.to(edges.device), reduction="none", beta=0.05).mean(1)
    return loss + 2 * (off * known.to(off.device)).sum() / known.sum().clamp(min=1)


def cell_edges(owners: np.ndarray) -> tuple[Tensor, Tensor]:
    """Owners int8 [B, S, S] -> for each cell's centre the way to its thing's edges, float [B, 4, G, G], and where."""
    centres = np.arange(GRID) * PATCH_SIZE + PATCH_SIZE // 2
    of_cell = owners[:, centres][:, :, centres]  # [B, G, G]
    ways = np.zeros((len(owners), 4, GRID, GRID), dtype=np.float32)
    for index, owner in enumerate(owners):
        for thing in np.unique(of_cell[index]):
            if thing < 0:
                continue
            rows, columns = np.nonzero(owner == thing)
            y, x = np.nonzero(of_cell[index] == thing)
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            place = np.stack([centres[x], centres[y], centres[x], centres[y]])  # [4, cells]
            ways[index, :, y, x] = ((box[:, None] - place) / IMAGE_SIZE).T
    return torch.from_numpy(ways), torch.from_numpy(of_cell >= 0)


def mask_loss(logits: Tensor, estimates: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the best of K masks per prompt, and its IoU.

    Args:
        logits: float [B, P, K, M, M]; estimates: float [B, P, K], the model's own IoU of each.
        truth: the covered share of every mask pixel, float [B, P, M, M].
    """
    logits, target = logits.float(), truth[:, :, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-1, -2))
    share = logits.sigmoid()
    dice = 1 - (2 * (share * target).sum((-1, -2)) + 1) / (share.sum((-1, -2)) + target.sum((-1, -2)) + 1)
    per_mask = CROSS_ENTROPY * entropy + dice  # [B, P, K]
    with torch.no_grad():
        said, true = logits > 0, target > 0.5
        iou = (said & true).sum((-1, -2)) / (said | true).sum((-1, -2)).clamp(min=1)
    best = per_mask.argmin(-1, keepdim=True)
    loss = per_mask.gather(-1, best).mean() + F.mse_loss(estimates.float(), iou)
    return loss, iou.gather(-1, best).mean()
