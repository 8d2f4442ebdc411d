"""Half precision against float32: what is timed, and what is lost."""

import math

from lab.bench import precision
from lab.smoke import SIZES


def test_speed_and_loss_are_told_for_every_dtype(tmp_path, monkeypatch):
    tiny = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setitem(SIZES, "tiny", (tiny | {"vocab_size": 32064}, tiny))
    speed, loss = precision.speeds(tmp_path, 1, "tiny"), precision.losses(6)
    for by_number in speed.values():
        assert list(by_number) == [1, 7]
        assert all(one.seconds > 0 and one.share > 0 and one.alone > 0 for one in by_number.values())
    exact = loss["float32"]
    assert exact.gain.tolist() == [0, 0, 0]
    assert math.isclose(exact.rank_correlation, 1)
    assert 0.99 < loss["bfloat16"].rank_correlation < 1  # another dtype was asked, and it is nearly the same
    lines = precision.rows(speed, loss)
    assert [line[0] for line in lines] == ["float32", "bfloat16"]
    assert all(len(line) == 10 for line in lines)
