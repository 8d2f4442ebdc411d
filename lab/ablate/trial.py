"""The second reading of the data: every intervention on every set of heads, for every sample.

trial = Trial(loaded, sets, survey.means, config.ablate, config.seed)
trial.take(samples, question)           # of one picture
trial.scores["other"]                   # [interventions, sets, samples]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from collector import Question
from conf.schema import AblateConfig, AblateTokens
from lab.ablate.answers import Answer, against_answer, divergence, tokenized
from lab.ablate.asking import Part, ReadPicture
from lab.ablate.interventions import INTERVENTIONS, About, Layers
from lab.ablate.sets import HeadSet
from lab.ablate.speaking import first_box, speak
from lab.ablate.things import answer_of, first_word, meant, of_another, things_beside
from lab.base.errors import UserError, reason
from lab.datasets import Sample
from lab.measure.metrics import box_iou
from llava.family import LoadedModel

# What the model says of the answer; what it says of what is right elsewhere; how much it says another thing; and by
# how much more the heads behind the changed ones look where these were sent, and at what is meant.
LOOKS = ("others_there", "others_target")
BOXES = ("box_other", "box_target")  # the first box that it writes lies on the other thing, on what is meant
HIT = 0.5  # IoU from which it does
METRICS = ("exact", "words", "first_word", "logprob", "other", "other_logprob", "divergence", *LOOKS, *BOXES)
SHARES = ("exact", "words", "first_word", "other", *LOOKS, *BOXES)  # 0 to 1


@dataclass(frozen=True, eq=False)
class Todo:
    """One intervention on one sample: its sets, and where the heads are sent to."""

    number: int  # of the intervention
    to: Layers
    other: Answer | None  # what the model says if it follows; only where it begins differently
    places: dict[str, Float[np.ndarray, " vis"]]  # of LOOKS, those that the sample has


class Trial:
    """Scores, sample by sample; NaN where nothing was measured."""

    def __init__(
        self,
        loaded: LoadedModel,
        sets: Sequence[HeadSet],
        means: Layers,
        config: AblateConfig,
        seed: int,
        most: int = 0,
    ) -> None:
        """`most`: tokens of an answer, where one is written."""
        self.loaded, self.sets, self.config, self.most = loaded, sets, config, most
        self.interventions = [INTERVENTIONS[name] for name in config.interventions]
        self.means = [mean.to(loaded.device) for mean in means]
        self.samples: list[Sample] = []
        self.words: list[int] = []  # of each sample's answer
        self.rng = np.random.default_rng((seed, 1))
        shape = (loaded.num_layers, loaded.num_heads)
        self.masks = [_Masks.of(sets, shape, others=one.others, device=loaded.device) for one in self.interventions]
        ends = loaded.model.generation_config.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(ends or [])
        self._scores: list[dict[str, Float[np.ndarray, "interventions sets"]]] = []

    @property
    def scores(self) -> dict[str, Float[np.ndarray, "interventions sets samples"]]:
        """Every metric that was measured at all."""
        if not self._scores:
            return {}
        found = {name: np.stack([one[name] for one in self._scores], axis=2) for name in METRICS}
        return {name: values for name, values in found.items() if np.isfinite(values).any()}

    def take(self, samples: Sequence[Sample], question: Question) -> dict[str, str]:
        """Measures the samples of one picture, but for those whose answer, things or masks are malformed: of these the
        ids, and why.
        """
        failed: dict[str, str] = {}
        picture = ReadPicture(self.loaded, question)
        looked = picture.look()[0][:, 0].float()  # layers heads queries vis
        for number, sample in enumerate(samples):
            try:
                about = self._about(number, samples, question, looked)
                text = answer_of(sample)
                answer = None if text is None else tokenized(text, self.loaded.tokenizer)
                self._scores.append(self._measure(picture, number, about, answer))
            except UserError as error:
                failed[sample.id] = reason(error)
                continue
            self.samples.append(sample)
            self.words.append(answer.number if answer else 0)
        return failed

    def _about(
        self, number: int, samples: Sequence[Sample], question: Question, looked: Float[torch.Tensor, "L H queries vis"]
    ) -> About:
        sample, own = samples[number], first_word(answer_of(samples[number]))
        things = things_beside(sample, samples)
        beside = [i for i, one in enumerate(samples) if of_another(one, sample)]
        other = self._one_of([first_word(thing.answer) for thing in things], own)
        partner = self._one_of([first_word(answer_of(samples[i])) for i in beside], own)
        swapped = None if partner is None else samples[beside[partner]]
        return About(
            question.picture,
            question.image_size,
            self.loaded.num_layers,
            meant(sample),
            things,
            None if other is None else things[other],
            None if partner is None else looked[:, :, beside[partner]],
            None if swapped is None else answer_of(swapped),
            None if swapped is None else meant(swapped),
            self.means,
            self.config.box,
        )

    def _one_of(self, words: Sequence[str | None], own: str | None) -> int | None:
        """One at random: of those whose answers begin otherwise, if there are any; None if there is nothing."""
        differ = [i for i, word in enumerate(words) if word not in (None, own)] or list(range(len(words)))
        return differ[int(self.rng.integers(len(differ)))] if differ else None

    def _measure(
        self, picture: ReadPicture, number: int, about: About, answer: Answer | None
    ) -> dict[str, Float[np.ndarray, "interventions sets"]]:
        scores = {name: np.full((len(self.interventions), len(self.sets)), np.nan) for name in METRICS}
        todos = list(self._todos(about, answer))
        asked = [(todo, answer) for todo in todos] + [(todo, todo.other) for todo in todos if todo.other]
        parts = [self._part(todo, text, own=place < len(todos)) for place, (todo, text) in enumerate(asked)]
        for place, ((todo, text), said) in enumerate(
            zip(asked, picture.say(number, parts) if asked else [], strict=True)
        ):
            logits, masks = said.logits, self.masks[todo.number]
            measured = {} if text is None else against_answer(logits, text, self.ends)
            if place < len(todos):  # the first set is untouched
                found = measured | {"divergence": divergence(logits[:, 0], logits[0, 0])}
                if said.looked is not None:
                    found |= dict(zip(todo.places, gains(said.looked, masks.heads), strict=True))
            else:
                found = {"other": measured["first_word"], "other_logprob": measured["logprob"]}
            for name, values in found.items():
                scores[name][todo.number] = masks.of_sets(values.cpu().numpy())
        for todo in todos if self.config.written else ():
            for name, hits in self._written(picture, number, todo, about).items():
                scores[name][todo.number] = self.masks[todo.number].of_sets(hits)
        return scores

    def _written(
        self, picture: ReadPicture, number: int, todo: Todo, about: About
    ) -> dict[str, Float[np.ndarray, " copies"]]:
        """BOXES of every choice of heads; nothing where the untouched model writes no box."""
        one = self.interventions[todo.number]
        other = one.aim(about) if one.aim else None
        if other is None or about.target is None:
            return {}
        whole = self._part(todo, None, own=False)
        spoken = speak(picture, number, [replace(whole, heads=heads[None]) for heads in whole.heads], most=self.most)
        boxes = [first_box(picture, answer) for answer in spoken]
        if boxes[0] is None:
            return {}
        found = np.array([box or (np.nan,) * 4 for box in boxes])
        of = zip(BOXES, (other, about.target), strict=True)
        return {name: (box_iou(found, np.array(thing.box_xyxy)) >= HIT).astype(float) for name, thing in of}

    def _todos(self, about: About, answer: Answer | None) -> Iterator[Todo]:
        target = None if about.target is None else about.where(about.target)
        for number, one in enumerate(self.interventions):
            to = one.to(about)
            if to is None:
                continue
            text = one.answer(about) if one.answer else None
            differs = text is not None and answer is not None and first_word(text) != answer.first
            there = one.there(about) if one.there else None
            places = {name: place for name, place in zip(LOOKS, (there, target), strict=True) if place is not None}
            yield Todo(number, to, tokenized(text, self.loaded.tokenizer) if text and differs else None, places)

    def _part(self, todo: Todo, answer: Answer | None, *, own: bool) -> Part:
        heads, change = self.masks[todo.number].heads, self.interventions[todo.number].change
        onward, places = self.config.tokens == AblateTokens.onward, None
        if own and todo.places:
            everywhere = np.ones_like(next(iter(todo.places.values())))
            rows = np.stack([*todo.places.values(), everywhere])
            places = torch.from_numpy(rows).float().to(self.loaded.device)
        return Part(answer.ids if answer else (), heads, change, todo.to, onward, places)


def gains(
    looked: Float[torch.Tensor, "copies layers heads places"], changed: Bool[torch.Tensor, "copies layers heads"]
) -> Float[torch.Tensor, "places-1 copies"]:
    """By how much more than untouched the heads that are not changed look at each place, behind the first that is.

    What is measured is the share of all their attention to the image, which is the last place. The first copy is
    untouched: 0. NaN where no such head is left.
    """
    behind = changed.any(2).cumsum(1).roll(1, 1) > 0  # copies layers
    behind[:, 0] = False
    counted = (behind[..., None] & ~changed).to(looked)
    after = torch.einsum("clhp,clh->pc", looked, counted)
    before = torch.einsum("lhp,clh->pc", looked[0], counted)
    gain = after[:-1] / after[-1] - before[:-1] / before[-1]
    gain[:, 0] = 0
    return gain


@dataclass(frozen=True, eq=False)
class _Masks:
    """Which heads are changed, each choice once, and which of them is that of each set."""

    heads: torch.Tensor  # bool [choices, layers, heads]; of the first, none
    index: np.ndarray  # of each set; -1: it says nothing here

    def of_sets(self, values: Float[np.ndarray, " choices"]) -> Float[np.ndarray, " sets"]:
        """What was found of each choice, for the sets."""
        return np.where(self.index < 0, np.nan, values[self.index])

    @classmethod
    def of(cls, sets: Sequence[HeadSet], shape: tuple[int, int], *, others: bool, device: torch.device) -> "_Masks":
        masks = [one.mask(shape, others=others) for one in sets]
        numbers: dict[bytes, int] = {}
        index = [-1 if mask is None else numbers.setdefault(mask.tobytes(), len(numbers)) for mask in masks]
        different = {number: mask for number, mask in zip(index, masks, strict=True) if mask is not None}
        heads = torch.from_numpy(np.stack([different[number] for number in range(len(numbers))]))
        return cls(heads.to(device), np.array(index))
