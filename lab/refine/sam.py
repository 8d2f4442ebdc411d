"""One picture looked at once, and many prompts about it answered together."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lab.base.errors import UserError
from lab.refine.checkpoint import Loaded, load
from lab.refine.frame import OUTSIDE, Frame
from lab.refine.kept import Kept
from lab.refine.prompts import Prompt
from llava.checkpoint.files import fetch_weights

log = logging.getLogger(__name__)

TOO_LARGE = "out of memory with one {}: use a larger device, or a smaller refine.checkpoint"


@dataclass(frozen=True, eq=False)
class Look:
    """A picture as SAM has seen it."""

    frame: Frame
    embeddings: dict[str, Any]  # what the model's forward takes instead of pixels


@dataclass(frozen=True, eq=False)
class Answer:
    """What SAM says to one prompt: its masks over the square that it sees, and how good it holds each to be."""

    logits: Float[Tensor, "k m m"]
    estimates: Float[np.ndarray, " k"]  # of each mask's IoU with what was meant


class Sam:
    """A SAM that is asked. Its prompts go in batches, which become smaller where they do not fit into memory."""

    def __init__(self, loaded: Loaded, kept: Kept | None = None) -> None:
        self.loaded, self.kept, self.most = loaded, kept, 64  # prompts at once

    @classmethod
    def load(cls, checkpoint: str, device: str = "auto", keep: Path | None = None) -> "Sam":
        """See lab.refine.checkpoint; `keep` is a folder for what is seen of pictures."""
        loaded = load(checkpoint, device)
        return cls(loaded, None if keep is None else Kept.of(keep, fetch_weights(checkpoint)))

    @torch.inference_mode()
    def look(self, image: Image.Image) -> Look:
        """The picture's embeddings. Raises UserError if memory does not hold them."""
        pixels, frame = self.loaded.prepare(image)
        if self.kept is None:
            return Look(frame, self._embeddings(pixels))
        if (embeddings := self.kept.read(pixels)) is None:
            embeddings = self._embeddings(pixels)
            self.kept.write(pixels, embeddings)
        return Look(frame, embeddings)

    def _embeddings(self, pixels: Tensor) -> dict[str, Any]:
        try:
            found = self.loaded.model.get_image_embeddings(pixels)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise UserError(TOO_LARGE.format("picture")) from None
        if isinstance(found, tuple):  # SAM-HQ also reads what its layers of global attention say
            return {"image_embeddings": found[0], "intermediate_embeddings": list(found[1])}
        return {"image_embeddings": list(found) if isinstance(found, list) else found}

    def answers(self, look: Look, prompts: Sequence[Prompt], *, multimask: bool) -> list[Answer]:
        """An answer to each prompt. Raises UserError if memory does not hold the answer to a single one.

        Prompts are asked together with those that have as many points: what pads a prompt changes its answer.
        """
        alike: dict[tuple[bool, int, bool], list[int]] = {}
        for i, prompt in enumerate(prompts):
            shape = prompt.box_xyxy is not None, len(prompt.points_xy), prompt.coarse is not None
            alike.setdefault(shape, []).append(i)
        found: dict[int, Answer] = {}
        for places in alike.values():

            def ask(some: Sequence[int]) -> list[Answer]:
                return self._asked(look, [prompts[i] for i in some], multimask)

            while places:
                some, places = places[: self.most], places[self.most :]
                found.update(zip(some, self._fitting(ask, some), strict=True))
        return [found[i] for i in range(len(prompts))]

    def _fitting(self, ask: Callable[[Sequence[int]], list[Answer]], some: Sequence[int]) -> list[Answer]:
        """The answers to some prompts, in halves where memory does not hold all of them at once."""
        try:
            return ask(some)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)
        if len(some) == 1:
            raise UserError(TOO_LARGE.format("prompt"))
        middle = len(some) // 2
        self.most = min(self.most, middle)
        log.warning("out of memory with %d prompts at once: going on with %d", len(some), self.most)
        return [*self._fitting(ask, some[:middle]), *self._fitting(ask, some[middle:])]

    @torch.inference_mode()
    def _asked(self, look: Look, prompts: Sequence[Prompt], multimask: bool) -> list[Answer]:
        inputs, embeddings = self._inputs(look.frame, prompts), look.embeddings
        if "input_masks" in inputs:  # each is laid over the picture's embedding: every prompt gets its own copy
            embeddings = {name: _copies(value, len(prompts)) for name, value in embeddings.items()}
            inputs = {name: value if name == "input_masks" else value[0][:, None] for name, value in inputs.items()}
        said = self.loaded.model(**embeddings, **inputs, multimask_output=multimask)
        masks = said.pred_masks.flatten(0, 1).float()  # [1, n, k, m, m] or [n, 1, k, m, m] -> [n, k, m, m]
        estimates = said.iou_scores.flatten(0, 1).float().cpu().numpy()
        return [Answer(*one) for one in zip(masks, estimates[:, : masks.shape[1]], strict=True)]

    def _inputs(self, frame: Frame, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Prompts of one shape, for a batch of one picture: [1, n, ...]; coarse masks [n, 1, m, m]."""
        first, inputs = prompts[0], dict[str, Tensor]()
        if first.box_xyxy is not None:
            corners = np.array([prompt.box_xyxy for prompt in prompts], float).reshape(-1, 2, 2)
            inputs["input_boxes"] = torch.from_numpy(frame.place(corners)).reshape(1, -1, 4)
        if first.points_xy:
            points = np.array([prompt.points_xy for prompt in prompts], float)
            inputs["input_points"] = torch.from_numpy(frame.place(points))[None]
            inputs["input_labels"] = torch.tensor([prompt.labels for prompt in prompts])[None]
        if first.coarse is not None:
            size = 4 * self.loaded.model.prompt_encoder.image_embedding_size[0]
            coarse = [prompt.coarse for prompt in prompts if prompt.coarse is not None]
            masks = [frame.heat(one.logits, one.grid, size, OUTSIDE) for one in coarse]
            inputs["input_masks"] = torch.from_numpy(np.stack(masks).astype(np.float32))[:, None]
        return {name: value.to(self.loaded.device) for name, value in inputs.items()}


def _copies(embedding: Any, count: int) -> Any:
    """One picture's embedding, or a list of them, [1, ...] -> [count, ...]."""
    if isinstance(embedding, list):
        return [_copies(one, count) for one in embedding]
    return embedding.expand(count, *embedding.shape[1:])
