"""SAM behind the heads: loaded when it is first asked, each picture looked at once."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bbox import Box, Localization
from conf.schema import RefineConfig, RefinePrompt
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.base.paths import find
from lab.records.record import Record

if TYPE_CHECKING:  # torch and transformers take seconds: wrong input is told before
    from lab.refine.refined import Refined
    from lab.refine.sam import Look, Sam

LOOKS = 4  # pictures whose embeddings are kept, for expressions that do not follow each other


class Refiner:
    """A SAM and what it is asked."""

    def __init__(self, config: RefineConfig, device: str) -> None:
        """`config` names its checkpoint; `device` as the key of that name."""
        self.config, self.device = config, device
        self._sam: Sam | None = None
        self._looks: OrderedDict[Path, Look] = OrderedDict()

    @property
    def sam(self) -> "Sam":
        """Raises UserError if the checkpoint is none."""
        if self._sam is None:
            from lab.refine.sam import Sam

            keep = None if self.config.keep is None else find(self.config.keep)
            self._sam = Sam.load(str(find(str(self.config.checkpoint))), self.device, keep)
        return self._sam

    def asked(self, config: RefineConfig) -> "Refiner":
        """The same asked otherwise; the SAM is kept unless another one is named."""
        other = Refiner(config, self.device)
        if (config.checkpoint, config.keep) == (self.config.checkpoint, self.config.keep):
            other._sam, other._looks = self._sam, self._looks
        return other

    def look(self, picture: Path | Image.Image) -> "Look":
        """The picture as SAM sees it; what a file looks like is kept for a while.

        Raises UserError if it cannot be read, or memory does not hold it.
        """
        if isinstance(picture, Image.Image):
            return self.sam.look(picture)
        if picture not in self._looks:
            self._looks[picture] = self.sam.look(open_image(picture))
            while len(self._looks) > LOOKS:
                self._looks.popitem(last=False)
        return self._looks[picture]

    def __call__(
        self,
        picture: Path | Image.Image,
        found: Sequence[tuple[Record, Localization]],
        kind: RefinePrompt | None = None,
    ) -> "list[Refined]":
        """A sharp mask for each of several expressions about one picture, all asked together.

        `kind` takes the place of `refine.prompt`. Raises UserError if the picture has not the size that the records
        say.
        """
        from lab.refine.refined import refine

        look = self.look(picture)
        for record, _ in found:
            check_size(record, look.frame.image_size)
        config = self.config if kind is None else replace(self.config, prompt=kind)
        return refine(self.sam, look, [(one, record.grid) for record, one in found], config)

    def of_boxes(self, picture: Path, boxes: Sequence[Box]) -> "list[Refined]":
        """A mask for each of some boxes (both edges inclusive), the one that SAM holds to be best."""
        from lab.refine.refined import of_boxes

        return of_boxes(self.sam, self.look(picture), boxes, multimask=self.config.multimask)


def check_size(record: Record, size: tuple[int, int]) -> None:
    """Raises UserError if a picture of this size is not the record's."""
    if record.image_size not in (None, size):
        sizes = f"the picture is {size[0]} x {size[1]} pixels, the record's {record.image_size}"
        raise UserError(f"{sizes}: data.image_file must name the picture that the record was made from")
