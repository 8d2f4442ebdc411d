"""What visitors ask for: a model that is there already, their pictures, and the records that it gave.

    desk = Desk(load("picturebook"))
    key = desk.take(path)                   # a picture that was uploaded, by a key that nobody can guess
    found = desk.find(state, 0)             # asks the model if it was not asked the same before
    found = desk.found(state, 0)            # by other rules, without asking

One model, many visitors: it is asked by one at a time, and everything else goes on meanwhile.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float
from PIL import Image

from bbox import head_maps, heat_map, in_attention
from collector import prepare
from conf.schema import MEAN
from lab.api import Found, Model
from lab.app.kept import Kept
from lab.app.knock_out import Said, knock_out
from lab.app.pictures import preview
from lab.app.state import State, logic_of
from lab.base.errors import UserError
from lab.base.files import read_regular
from lab.base.images import image_of_bytes, open_image
from lab.base.paths import PROJECT
from lab.records.record import Record

FOLDER = PROJECT / "examples" / "images"
Word = tuple[str, Float[np.ndarray, "rows cols"]]  # and its heat map
EXAMPLES = {  # pictures that ship, and what is asked of them
    "bird.png": "the bird on the branch",
    "cat.png": "a cat on the floor",
    "dog.png": "a small dog wearing a collar",
}
MOST_PIXELS = 40_000_000  # of a picture: a 12-megapixel photo has 12,000,000
MOST_BYTES = 25 * 2**20  # of its file
PICTURES, RECORDS = 2**29, 2**29  # bytes that are kept of each
READ_FILES = 1000  # whose keys are remembered
READ = ("last", "expression")  # of model.read: what the heat map is made from, and the maps of the words
THUMBNAIL = 240  # pixels
MOST_TOKENS = 32  # of an answer


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture that somebody looks at."""

    image: Image.Image
    name: str  # of its file

    @cached_property
    def preview(self) -> str:
        """As the page shows it, a data URL."""
        return preview(self.image)

    @property
    def weight(self) -> int:
        return 3 * self.image.width * self.image.height


class Desk:
    """Answers what the page asks. All methods may be called from any thread."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._words = model.with_options(f"model.read={READ[1]}")  # the same, which reads every word
        self._asking = Lock()
        self._pictures: Kept[str, Shown] = Kept(PICTURES, lambda shown: shown.weight)
        self._read: Kept[tuple[Path, str], str] = Kept(READ_FILES, lambda key: 1)  # uploads, and the keys they got
        self._records: Kept[tuple[str, str, str], Record] = Kept(RECORDS, lambda record: record.attn.nbytes)

    # pictures

    def take(self, path: Path, name: str) -> str:
        """Keeps a picture that was uploaded, and returns its key, which others cannot guess.

        The key is of content and name: the same picture under another name is another one.

        Raises UserError if it is no picture that can be read, or too large.
        """
        try:
            content = read_regular(path, MOST_BYTES)
        except FileNotFoundError:
            key = self._read.get((path, name)) or ""  # someone else brought the same, and it was read for them
            if self._pictures.get(key) is None:
                raise UserError(f"{name} did not arrive: choose it again") from None
            return key
        except OSError:
            raise UserError(too_many_bytes(name)) from None
        key = hashlib.sha256(b"%a\0%b" % (name, content)).hexdigest()[:32]
        if self._pictures.get(key) is None:
            self._pictures.put(key, Shown(image_of_bytes(content, name, MOST_PIXELS), name))
        self._read.put((path, name), key)
        return key

    def picture(self, key: str) -> Shown:
        """One that was uploaded, or an example. Raises UserError if it is neither, or not kept any more."""
        shown = self._pictures.get(key)
        if shown is None and key in EXAMPLES:
            shown = Shown(open_image(FOLDER / key), key)
            self._pictures.put(key, shown)
        if shown is None:
            raise UserError("This picture is not kept here any more: choose it again")
        return shown

    def thumbnail(self, name: str) -> str:
        """An example, as small as its button shows it; a data URL."""
        return preview(self.picture(name).image, THUMBNAIL)

    def file_of(self, key: str) -> str:
        """What the command line calls the picture."""
        return f"examples/images/{key}" if key in EXAMPLES else self.picture(key).name

    # answers

    def asked(self, state: State, side: int, read: str = READ[0]) -> bool:
        """Whether the model has answered this already."""
        return self._records.get((state.picture, state.sides[side].expression, read)) is not None

    def ask(self, state: State, side: int) -> None:
        """Asks the model what it was not asked yet. Raises UserError if that cannot be done."""
        self._record(state, side, READ[0])

    def find(self, state: State, side: int) -> Found:
        """Where the heads look. The model is asked if it was not yet. Raises UserError if that cannot be done."""
        return self._by_rules(self._record(state, side, READ[0]), state, side)

    def words(self, state: State, side: int, found: Found) -> list[Word]:
        """The words of the expression, and what the same heads look at at each, as `model.read=word:cup` reads it."""
        record, logic = self._record(state, side, READ[1]), replace(found.logic, token=MEAN)
        tokens = [str(token["text"]) for token in record.meta["tokens"]]
        each = places_of_words(found.expression, tokens)
        of_words = [replace(record, attn=record.attn[:, :, places]).under(logic) for _, places in each]
        cut = [heat_map(head_maps(one, found.heads), found.heads, logic) for one in of_words]
        maps = [in_attention(heat, len(found.heads), logic) for heat in cut]
        return [(word, heat) for (word, _), heat in zip(each, maps, strict=True)]

    def knock_out(self, state: State, side: int, way: str) -> list[Said]:
        """What the model says without the heads of one side. Raises UserError if its family cannot be asked so."""
        heads, model = self.find(state, side).heads, self.model
        image, expression = self.picture(state.picture).image, state.sides[side].expression
        question = prepare(model.loaded, image, [expression], model.config.model)
        with self._asking:
            return knock_out(
                model.loaded, question, heads, way, most=min(MOST_TOKENS, model.config.model.max_new_tokens)
            )

    def _record(self, state: State, side: int, read: str) -> Record:
        shown, expression = self.picture(state.picture), state.sides[side].expression
        key = (state.picture, expression, read)
        model = self.model if read == READ[0] else self._words
        with self._asking:
            record = self._records.get(key)
            if record is None:
                record = model.find(shown.image, expression).record
                self._records.put(key, record)
        return record

    def _by_rules(self, record: Record, state: State, side: int) -> Found:
        model = self.model.with_logic(logic_of(self.model.config.logic, state, side))
        return model.localize(record, self.picture(state.picture).image)


def places_of_words(expression: str, tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The words between spaces, each with the tokens that are of it. A word that no token is of comes without any map:
    it is left out.
    """
    word, at = 0, 0
    spans = [match.span() for match in re.finditer(r"\S+", expression)]
    places: list[list[int]] = [[] for _ in spans]
    for number, token in enumerate(tokens):
        text = token.strip()
        found = expression.find(text, at)
        if found >= 0 and not expression[at:found].strip():
            word = next(place for place, (_, end) in enumerate(spans) if found < end)
            at = found + len(text)
        places[word].append(number)  # else it shares the letters of the token before
    return [(expression[slice(*span)], own) for span, own in zip(spans, places, strict=True) if own]


def too_many_bytes(name: str) -> str:
    """What is said of a file that is too large to be uploaded."""
    return f"{name} is larger than {MOST_BYTES // 2**20} MB; choose a smaller picture"
