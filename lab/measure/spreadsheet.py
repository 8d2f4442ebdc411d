"""What was found of each sample as a table that pandas and spreadsheets read: samples.csv.

    HEADER + csv_line(sample, found, score)

| column | what |
|---|---|
| `id`, `picture`, `expression` | the sample's, as text |
| `heads` | the heads that made the box, as L14H24 L14H13 |
| `x0`, `y0`, `x1`, `y1` | the box in pixels; empty if there is none |
| `bbox_format` | xyxy_inclusive: x1 and y1 are the last pixels inside |
| `iou`, `mask_iou` | against the true box, by `metrics.box`, and the true mask; empty where there is none |
| `present` | 0 where the expression describes nothing in the picture, else 1 |
| `presence` | the probability that it does, 0 to 1; empty without a calibration |

A text that a spreadsheet would run as a formula, as it begins with = + - or @, gets an apostrophe in front, and so does
one that begins with an apostrophe: without its first apostrophe a cell is the text again. The file is UTF-8 with a byte
order mark, by which spreadsheets know it.
"""

import codecs
import csv
import io

from bbox import Localization
from lab.datasets import Sample
from lab.measure.metrics import Score

COLUMNS = (
    "id",
    "picture",
    "expression",
    "heads",
    "x0",
    "y0",
    "x1",
    "y1",
    "bbox_format",
    "iou",
    "mask_iou",
    "present",
    "presence",
)
BOX_FORM = "xyxy_inclusive"
RUN = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n")  # some run the wide = + - @ too
MARK = "'"


def csv_line(sample: Sample, found: Localization | None, score: Score) -> bytes:
    """A line of the file: a sample, what its heads found if it has a record, and how good that is."""
    box = (found and found.box_xyxy) or ("",) * 4
    heads = " ".join(f"L{layer}H{head}" for layer, head in found.heads) if found else ""
    mask_iou = "" if score.intersection is None or not score.union else round(score.intersection / score.union, 6)
    iou = "" if score.box_iou is None else round(score.box_iou, 6)
    texts = map(harmless, (sample.id, str(sample.image_file), sample.query))
    presence = "" if found is None or found.presence is None else round(found.presence, 6)
    return _line(*texts, heads, *box, BOX_FORM, iou, mask_iou, int(sample.present), presence)


def harmless(text: str) -> str:
    """The text as a cell that no spreadsheet runs."""
    return MARK + text if text.startswith((*RUN, MARK)) else text


def _line(*cells: object) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue().encode("utf-8", "backslashreplace")  # a path may hold half a character


HEADER = codecs.BOM_UTF8 + _line(*COLUMNS)
