"""Samples with ground truth, from every data set this tool reads. One sample is one expression about one image.

python -m lab.datasets convert --help     # RefCOCO, RefCOCO+, RefCOCOg, ReasonSeg -> a JSONL file that stage=batch
reads

for sample in read_jsonl(Path("refcoco_val.jsonl")):
    truth = read_truth(sample)            # box, mask, area; checked against the image
"""

from lab.datasets.jsonl import write_jsonl
from lab.datasets.sample import Sample, Truth, need_truth, read_truth
from lab.datasets.stream import read_jsonl, read_samples

__all__ = ["Sample", "Truth", "need_truth", "read_jsonl", "read_samples", "read_truth", "write_jsonl"]
