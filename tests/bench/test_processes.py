"""The uneven samples that the bench of many processes asks."""

from collections import Counter

from lab.bench import processes
from lab.bench.processes import Run, uneven
from lab.datasets import read_samples


def test_a_fifth_of_the_samples_share_a_picture_and_the_others_some(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SCENES", 2)
    samples = read_samples(uneven(tmp_path, 50))
    pictures = Counter(sample.image_file for sample in samples)
    assert len(samples) == 50
    assert max(pictures.values()) == 10
    assert len(set(pictures.values())) > 3
    assert all(path.exists() for path in pictures)


def test_idle_is_what_the_first_to_end_waits_for_the_last():
    assert Run(12.0, 20.0, [8.0, 10.0], same=True).idle == 1 - 8 / 10


def test_one_sample_is_uneven_too(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SCENES", 2)
    assert len(read_samples(uneven(tmp_path, 1))) == 1
