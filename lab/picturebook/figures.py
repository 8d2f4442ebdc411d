"""Makes the figures of README.md, and that of the guide to sharp masks, with the shipped models.

python -m lab.picturebook.figures out=examples/images
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import viz
from bbox import localize
from collector import collect
from conf.schema import configuration
from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.base.paths import PROJECT
from lab.heads.choice import head_choice
from lab.stages.common import load_model
from lab.stages.refining import refiner_of

# name -> picture, expression, what else is set
FIGURES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "readme_cat.png": ("cat.png", "a cat on the floor", ()),
    "sharp_bird.png": ("bird.png", "the bird on the branch", ("logic.refine=sam",)),
}


def draw_figures(out: Path) -> list[Path]:
    """Writes every figure of `FIGURES` into `out` and returns the paths."""
    config = configuration(["model=picturebook", "viz.heads=false"])
    loaded = load_model(config)
    heads = head_choice(config.logic, config.model).fixed((loaded.num_layers, loaded.num_heads))
    if heads is None:
        raise UserError("the figures show the model preset's heads: set logic.heads=preset")
    written = []
    for name, (picture, query, more) in FIGURES.items():
        config = configuration(["model=picturebook", "viz.heads=false", *more])
        image = open_image(PROJECT / "examples" / "images" / picture)
        record = collect(loaded, image, query, config.model)
        located = localize(record, heads, config.logic)
        refiner = refiner_of(config)
        sharp = (
            None if refiner is None else refiner(PROJECT / "examples" / "images" / picture, [(record, located)])[0].mask
        )
        figures = viz.sample_figures(record, located, image, config.logic, config.viz, sharp)
        viz.save_figure(figures[f"top{len(heads)}"], out / name, dpi=140)
        written.append(out / name)
    return written


@dataclass
class FiguresConfig:
    """Where the figures go."""

    out: str = "examples/images"


if __name__ == "__main__":
    with exit_in_one_line():
        options = typed_options(FiguresConfig, sys.argv[1:])
        print("\n".join(f"wrote {path}" for path in draw_figures(Path(options.out))))
