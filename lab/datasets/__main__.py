"""python -m lab.datasets convert: from a published data set to a JSONL file that stage=batch reads."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.base.arguments import Parser
from lab.base.console import exit_in_one_line, progress, table
from lab.base.errors import UserError
from lab.base.images import header_size
from lab.base.places import readable_folder
from lab.datasets.d_cube import SPLITS, read_d_cube
from lab.datasets.hub import read_hub
from lab.datasets.jsonl import write_jsonl
from lab.datasets.mirror import mirrored
from lab.datasets.reasonseg import read_reasonseg
from lab.datasets.ref_l4 import read_ref_l4
from lab.datasets.refcoco import TEXTS, read_refcoco
from lab.datasets.sample import Sample, decode_truth, need_truth, with_period
from lab.datasets.skipped import Skip, Skipped, stop
from lab.datasets.stream import open_samples

MIRRORED = "mirrored"  # the folder of the pictures
EXAMPLES = """examples:
  RefCOCO as distributed; RefCOCO+ and RefCOCOg (--split-by umd) alike
    python -m lab.datasets convert refcoco data/refcoco --images data/train2014 --split val --out data/refcoco_val.jsonl
  the same from the hub's Parquet files (lmms-lab/RefCOCO)
    python -m lab.datasets convert hub data/RefCOCO --split val --split-by unc --out data/refcoco_val.jsonl
    python -m lab.datasets convert hub lmms-lab/RefCOCO --split val --split-by unc --out data/refcoco_val.jsonl
  ReasonSeg
    python -m lab.datasets convert reasonseg data/ReasonSeg --split val --out data/reasonseg_val.jsonl
  Ref-L4; D-cube, whose sentences often describe nothing in the picture
    python -m lab.datasets convert ref_l4 data/Ref-L4 --images data/Ref-L4/images --split val --out data/ref_l4.jsonl
    python -m lab.datasets convert d_cube data/d_cube --images data/d3_images --split full --out data/d_cube.jsonl
  a file of your own, checked against its pictures
    python -m lab.datasets convert jsonl mine.jsonl --out data/mine.jsonl
  the same left to right, for the criterion `mirrored` of stage=study
    python -m lab.datasets convert jsonl mine.jsonl --mirrored --out data/mine_mirrored.jsonl

python -m lab.datasets convert refcoco --help lists the options of one format."""


class _Parser(Parser):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})


def make_parser() -> argparse.ArgumentParser:
    """`convert FORMAT SOURCE --out FILE`, with the options of each format."""
    about = "Reads a data set, checks its boxes and masks against the images, and writes one JSON line per expression."
    parser = _Parser(prog="python -m lab.datasets", description="Data sets with ground truth.")
    commands = parser.add_subparsers(required=True, metavar="convert")
    convert = commands.add_parser(
        "convert", help="write a JSONL file that stage=batch reads", description=about, epilog=EXAMPLES
    )
    formats = convert.add_subparsers(required=True, metavar="FORMAT")
    for name, (read, source, options) in FORMATS.items():
        one = formats.add_parser(name, help=source, description=f"{about}\nSOURCE is a {source}.")
        one.add_argument("source", type=Path, metavar="SOURCE", help=source)
        one.add_argument(
            "--out",
            type=Path,
            required=True,
            metavar="FILE",
            help="JSONL file to write; the paths in it are relative to it",
        )
        for option, settings in options.items():
            one.add_argument(option, **settings)
        one.add_argument(
            "--final-period", action="store_true", help="end every expression in a full stop, as the paper's prompts do"
        )
        one.add_argument(
            "--mirrored",
            action="store_true",
            help="the same left to right: the pictures (written to `mirrored`, beside --out), the truth, and the words "
            "left and right",
        )
        one.set_defaults(read=read, strict=False)
    return parser


def main(arguments: Sequence[str]) -> None:
    """Converts, and prints what was written and what was left out.

    Raises UserError if nothing is left: there is never a file without samples.
    """
    options = make_parser().parse_args(arguments)
    if readable_folder(options.out):
        raise UserError(f"--out {options.out} is a folder; expected the name of a JSONL file")
    skipped = Skipped()
    samples = list(options.read(options, stop if options.strict else skipped))
    if not samples:
        counts = ", ".join(f"{kind}: {count}" for kind, count in skipped.counts()) or "it has no samples"
        first = f"; the first: {skipped.first()}" if skipped.rows else ""
        raise UserError(f"{options.source}: nothing to write ({counts}){first}")
    if options.final_period:
        samples = [replace(sample, query=with_period(sample.query)) for sample in samples]
    if options.mirrored:
        folder = options.out.parent / MIRRORED
        samples = list(progress(mirrored(samples, folder), "mirror", total=len(samples)))
    listed = options.out.with_suffix(".skipped.jsonl")
    write_jsonl(options.out, samples)
    skipped.write(listed)
    print(f"{summary(samples)}\n")
    if skipped.rows:
        print(f"{skipped.summary()}\n")
    print(f"wrote {options.out}" + (f" ({listed.name} lists what was left out, and why)" if skipped.rows else ""))


def summary(samples: Sequence[Sample]) -> str:
    """What there is, as a table."""
    counts = (
        len(samples),
        len({sample.image_file for sample in samples}),
        sum(sample.box_xyxy is not None for sample in samples),
        sum(sample.mask_source is not None for sample in samples),
        sum(not sample.present for sample in samples),
    )
    return table(("samples", "images", "with box", "with mask", "absent"), [counts])


# Formats


def _refcoco(options: argparse.Namespace, skip: Skip) -> Iterable[Sample]:
    return read_refcoco(
        options.source, options.images, split=options.split, split_by=options.split_by, text=options.text, skip=skip
    )


def _hub(options: argparse.Namespace, skip: Skip) -> Iterable[Sample]:
    images = options.images or options.out.parent / "images"
    return read_hub(options.source, images, split=options.split, split_by=options.split_by, skip=skip)


def _reasonseg(options: argparse.Namespace, skip: Skip) -> Iterable[Sample]:
    return read_reasonseg(options.source, split=options.split, skip=skip)


def _ref_l4(options: argparse.Namespace, skip: Skip) -> Iterable[Sample]:
    return read_ref_l4(options.source, options.images, split=options.split, skip=skip)


def _d_cube(options: argparse.Namespace, skip: Skip) -> Iterable[Sample]:
    return read_d_cube(options.source, options.images, split=options.split, skip=skip)


def _jsonl(options: argparse.Namespace, _skip: Skip) -> Iterable[Sample]:
    """A file of one's own is put right, not thinned out: it is refused at its first wrong line."""
    samples = open_samples(options.source)
    if any(sample.present for sample in samples):
        need_truth(samples, str(options.source))
    for sample in progress(samples, "check"):
        try:
            size = header_size(sample.image_file)
            if sample.present:
                decode_truth(sample, size)
        except UserError as error:
            raise UserError(f"{samples.source.where(sample.line or 0)}: {error}") from None
        yield replace(sample, image_size=size)


SPLIT: dict[str, Any] = {
    "required": True,
    "metavar": "NAME",
    "help": "train, val, test, testA, testB: what the data set has",
}
STRICT: dict[str, Any] = {
    "action": "store_true",
    "help": "stop at the first annotation that is of no use, instead of leaving it out and listing it",
}
FORMATS: dict[str, tuple[Callable[[argparse.Namespace, Skip], Iterable[Sample]], str, dict[str, dict[str, Any]]]] = {
    "refcoco": (
        _refcoco,
        "folder of RefCOCO, RefCOCO+ or RefCOCOg as distributed: refs(unc).p, instances.json",
        {
            "--images": {
                "type": Path,
                "required": True,
                "metavar": "DIR",
                "help": "folder of COCO's train2014 pictures",
            },
            "--split": SPLIT,
            "--split-by": {"default": "unc", "metavar": "WHO", "help": "unc, google or umd: which refs file (unc)"},
            "--text": {
                "choices": TEXTS,
                "default": "sent",
                "help": "the cleaned expression, or as it was typed (sent)",
            },
            "--strict": STRICT,
        },
    ),
    "hub": (
        _hub,
        "folder of the Parquet files of lmms-lab/RefCOCO, RefCOCOplus or RefCOCOg, or such a name on the hub",
        {
            "--images": {"type": Path, "metavar": "DIR", "help": "where the pictures go (images, beside --out)"},
            "--split": SPLIT,
            "--split-by": {
                "metavar": "WHO",
                "help": "unc, google or umd, where a split mixes two: val of RefCOCO and of RefCOCOg",
            },
            "--strict": STRICT,
        },
    ),
    "reasonseg": (
        _reasonseg,
        "folder of ReasonSeg: val/*.json beside val/*.jpg",
        {"--split": SPLIT, "--strict": STRICT},
    ),
    "ref_l4": (
        _ref_l4,
        "folder of Ref-L4: ref-l4-val.parquet, ref-l4-test.parquet",
        {
            "--images": {"type": Path, "required": True, "metavar": "DIR", "help": "where images.tar.gz was unpacked"},
            "--split": SPLIT,
            "--strict": STRICT,
        },
    ),
    "d_cube": (
        _d_cube,
        "folder of D-cube: images.pkl, annotations.pkl, sentences.pkl, groups.pkl",
        {
            "--images": {"type": Path, "required": True, "metavar": "DIR", "help": "folder of D-cube's pictures"},
            "--split": {
                "choices": tuple(SPLITS),
                "default": "full",
                "help": "all sentences; those of what is there, pres; those that speak of an absence, abs (full)",
            },
            "--strict": STRICT,
        },
    ),
    "jsonl": (_jsonl, "JSONL file of your own, to be checked against its pictures", {}),
}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        main(sys.argv[1:])
