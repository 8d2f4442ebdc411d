"""One picture, read once, about which a model is asked again and again, each time with other heads changed.

    picture = ReadPicture(loaded, question)         # system text and image, in a cache
    looked, outputs = picture.look()                # what the last token of every prompt does
    said = picture.say(0, [Part(...), Part(...)])   # what it says to the first prompt, heads changed

Only what stands behind the image is computed again, many copies of it at once: they lie behind the cache as
expressions lie behind their picture in a batch, and none sees another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from transformers import DynamicCache

from collector import Question
from lab.ablate.changes import Change, Seen
from lab.ablate.hooks import acting
from lab.attention.capture import Wanted, attention_name, until_last_attention
from lab.attention.forward import Rows, stacked, to_model
from lab.attention.packing import Packed, pack
from lab.base.errors import UserError
from llava.family import LoadedModel, Sharing
from llava.layers import reaches

MOST_TOKENS = {"cpu": 96, "cuda": 4096}  # behind the image, in one forward


@dataclass(frozen=True, eq=False)
class Part:
    """Copies of one prompt with an answer, in each of which other heads are changed in the same way."""

    answer: tuple[int, ...]  # token ids that follow the prompt
    heads: Bool[torch.Tensor, "copies layers heads"]  # which are changed
    change: Change
    to: Sequence[torch.Tensor]  # of each layer, on the device
    onward: bool = True  # from the last prompt token on; otherwise at that token alone
    places: Float[torch.Tensor, "places vis"] | None = None  # of the picture, to which attention is measured

    @property
    def changed(self) -> int:
        """How many tokens of a copy are changed."""
        return 1 + len(self.answer) * self.onward


@dataclass(frozen=True, eq=False)
class Said:
    """What follows the prompt in every copy of a part, float32."""

    logits: Float[torch.Tensor, "copies tokens vocab"]  # behind the last prompt token and each token of the answer
    looked: Float[torch.Tensor, "copies layers heads places"] | None  # attention of the last prompt token to the places


class ReadPicture:
    """The picture of a question in the model's cache."""

    def __init__(self, loaded: LoadedModel, question: Question) -> None:
        """Raises UserError for a model that cannot read a picture before its expression."""
        if loaded.family.sharing is Sharing.ALONE:
            why = "it reads a picture and its expression together, so heads cannot be changed behind the picture"
            raise UserError(f"stage=ablate cannot ask {loaded.name}: {why}")
        self.loaded, self.question = loaded, question
        inputs = to_model(loaded, loaded.family.inputs([question.picture]))
        packed = pack([question.prompts]).to(loaded.device)
        self.start = packed.start
        self.cache = DynamicCache()  # without a config: with one, layers with a window would forget keys
        prefix = packed.ids[:, : self.start]
        inputs |= loaded.family.text_inputs(prefix, inputs)
        with torch.inference_mode(), until_last_attention(loaded.model):
            loaded.model.model(input_ids=prefix, **inputs, past_key_values=self.cache, use_cache=True)

    def look(self) -> tuple[Rows, list[Float[torch.Tensor, "queries heads width"]]]:
        """What the last token of every prompt does, unchanged: its attention to the image, and the heads' outputs.

        The rows are [layers, 1, heads, queries, vis]; of outputs there is one tensor for each layer.
        """
        packed = pack([self.question.prompts]).to(self.loaded.device)
        rows, outputs = list[torch.Tensor](), list[torch.Tensor]()

        def keep(_layer: int, seen: Seen) -> None:
            rows.append(seen.looked.permute(1, 0, 2)[None])  # N H V -> 1 H N V
            outputs.append(seen.output)

        text = self._text(packed)
        model = self.loaded.model
        with torch.inference_mode(), acting(model, keep, packed.wanted_behind()), until_last_attention(model):
            model.model(**text, past_key_values=self.cache, use_cache=True)
        self._forget(packed)
        return stacked(rows), outputs

    def say(self, number: int, parts: Sequence[Part]) -> list[Said]:
        """What follows one of the prompts, part by part.

        The prompt but for its last token is read once for all copies, unchanged.
        """
        prompt = pack([[self.question.prompts[number]]]).to(self.loaded.device)
        behind = prompt.ids.shape[1] - 1
        found: list[list[Said]] = [[] for _ in parts]
        if behind > self.start:
            self._read(_without_last(prompt))
        for numbers, chunk in self._chunks(parts):
            for place, said in zip(numbers, self._said(prompt, chunk), strict=True):
                found[place].append(said)
        self.cache.crop(self.start - behind)
        return [_joined(said) for said in found]

    def _chunks(self, parts: Sequence[Part]) -> Iterator[tuple[list[int], list[Part]]]:
        """Parts, or pieces of them, that together are no longer than one forward should be, with their numbers."""
        most = MOST_TOKENS.get(self.loaded.device.type, MOST_TOKENS["cuda"])
        numbers, chunk, room = list[int](), list[Part](), most
        for number, part in enumerate(parts):
            length, at = 1 + len(part.answer), 0
            while at < len(part.heads):
                if chunk and room < length:
                    yield numbers, chunk
                    numbers, chunk, room = [], [], most
                piece = part.heads[at : at + max(1, room // length)]
                numbers.append(number)
                chunk.append(replace(part, heads=piece))
                at, room = at + len(piece), room - length * len(piece)
        yield numbers, chunk

    def _said(self, prompt: Packed, parts: Sequence[Part]) -> list[Said]:
        copies = [part for part in parts for _ in part.heads]
        packed = behind_prompt(prompt, [copy.answer for copy in copies])
        device, ends = packed.ids.device, packed.last[0] - packed.start
        spans = [torch.arange(-len(copy.answer), 1, device=device) for copy in copies]
        said = [end + span for end, span in zip(ends, spans, strict=True)]
        changed = [span[: copy.changed] for copy, span in zip(copies, said, strict=True)]
        watched = any(part.places is not None for part in parts)
        layers = {int(layer) for part in parts for layer in part.heads.any(dim=2).any(dim=0).nonzero()}
        text, model = self._text(packed), self.loaded.model
        wanted, changes = Wanted(torch.cat(changed)[None], packed.columns), _Changes(parts)
        with torch.inference_mode(), acting(model, changes, wanted, None if watched else layers):
            logits = model(**text, past_key_values=self.cache, use_cache=True, logits_to_keep=torch.cat(said)).logits[0]
        self._forget(packed)
        sizes = [len(part.heads) * (1 + len(part.answer)) for part in parts]
        by_part = zip(parts, logits.float().split(sizes), changes.looked, strict=True)
        return [
            Said(rows.unflatten(0, (len(part.heads), -1)), torch.stack(looked, dim=1) if looked else None)
            for part, rows, looked in by_part
        ]

    def _read(self, packed: Packed) -> None:
        """Adds what stands behind the image to the cache."""
        text, model = self._text(packed), self.loaded.model
        with torch.inference_mode(), until_last_attention(model):
            model.model(**text, past_key_values=self.cache, use_cache=True)

    def _text(self, packed: Packed) -> dict[str, Any]:
        """What the model's forward takes behind the cache; asked for before anything acts."""
        kinds = reaches(self.loaded.text_config)
        return packed.inputs_behind(kinds, attention_name(self.loaded.model), self.loaded.dtype)

    def _forget(self, packed: Packed) -> None:
        """Leaves what stands before `packed.start` in the cache."""
        self.cache.crop(packed.start - packed.ids.shape[1])


def _joined(pieces: Sequence[Said]) -> Said:
    looked = [piece.looked for piece in pieces if piece.looked is not None]
    return Said(torch.cat([piece.logits for piece in pieces]), torch.cat(looked) if looked else None)


def _without_last(prompt: Packed) -> Packed:
    return replace(prompt, ids=prompt.ids[:, :-1], place=prompt.place[:, :-1], part=prompt.part[:, :-1])


def behind_prompt(prompt: Packed, answers: Sequence[Sequence[int]]) -> Packed:
    """The last token of one packed prompt many times, each time with an answer, behind all that stands before it.

    The copies are blind to each other, and each stands where it would stand alone.
    """
    before, device = _without_last(prompt), prompt.ids.device
    start, last = before.ids.shape[1], int(prompt.ids[0, -1])
    lengths = [1 + len(answer) for answer in answers]
    ids = torch.tensor([token for answer in answers for token in (last, *answer)], device=device)
    number = torch.arange(1, len(answers) + 1, device=device).repeat_interleave(torch.tensor(lengths, device=device))
    along = torch.cat([torch.arange(length, device=device) for length in lengths])
    ends = start - 1 + torch.tensor(lengths, device=device).cumsum(0)
    return replace(
        prompt,
        ids=torch.cat([before.ids, ids[None]], dim=1),
        place=torch.cat([before.place, (prompt.place[:, -1:] + along)], dim=1),
        part=torch.cat([torch.zeros_like(before.part), number[None]], dim=1),
        last=ends[None],
        prefix=start,
        start=start,
    )


class _Changes:
    """Changes the heads of every copy; the queries lie part by part, copy by copy.

    `looked` is what the parts' places get, layer by layer: [copies, heads, places].
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.looked: list[list[torch.Tensor]] = [[] for _ in parts]

    def __call__(self, layer: int, seen: Seen) -> torch.Tensor:
        new, at = seen.output.clone(), 0
        for part, looked in zip(self.parts, self.looked, strict=True):
            queries = slice(at, at := at + part.changed * len(part.heads))
            heads = part.heads[:, layer]
            if part.places is not None:  # the first of a copy's queries is the prompt's last token
                looked.append(seen.looked[queries][:: part.changed] @ part.places.T)
            if heads.any():
                each = heads.repeat_interleave(part.changed, dim=0).to(new.device)  # queries heads
                here = seen.of(queries)
                new[queries] = torch.where(each[..., None], part.change(here, part.to[layer]), here.output)
        return new
