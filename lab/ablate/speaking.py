"""What a model says with heads changed: its own answer, token by token, always the most probable one.

picture = ReadPicture(loaded, question)
untouched, without = speak(picture, 0, [nothing, chosen_heads], most=32)
without.ids, without.first              # token ids; the distribution of the first one
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from lab.ablate.asking import Part, ReadPicture
from llava.boxes import Box


@dataclass(frozen=True, eq=False)
class Spoken:
    """An answer, without the token that ends it, and how probable each token was as its first."""

    ids: tuple[int, ...]
    first: Float[torch.Tensor, " vocab"]


def speak(picture: ReadPicture, number: int, parts: Sequence[Part], *, most: int) -> list[Spoken]:
    """The answers to one of the picture's prompts, one for each part, of at most so many tokens.

    A part has one copy; the answer that it may hold is what its own goes on from. Heads are changed while each token is
    predicted, as `Part.onward` says.
    """
    ends = end_tokens(picture)
    said, first, going = list(parts), dict[int, torch.Tensor](), list(range(len(parts)))
    for _ in range(most):
        answers = picture.say(number, [said[place] for place in going])
        ended = set()
        for place, found in zip(going, answers, strict=True):
            following = found.logits[0, -1]
            first.setdefault(place, following.softmax(-1).cpu())
            token = int(following.argmax())
            if token in ends:
                ended.add(place)
            else:
                said[place] = replace(said[place], answer=(*said[place].answer, token))
        going = [place for place in going if place not in ended]
        if not going:
            break
    return [Spoken(part.answer, first[place]) for place, part in enumerate(said)]


def first_box(picture: ReadPicture, spoken: Spoken) -> Box | None:
    """The first box in an answer, x0, y0, x1, y1 in pixels of the picture, edges exclusive."""
    loaded, question = picture.loaded, picture.question
    found = loaded.family.boxes(loaded.tokenizer.decode(spoken.ids), question.picture, question.image_size)
    return found[0][1] if found else None


def end_tokens(picture: ReadPicture) -> Collection[int]:
    """The tokens that end an answer."""
    ends = picture.loaded.model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())
