"""When garbage is looked for."""

import gc

import pytest

from lab.base.memory import uncollected


def test_garbage_is_looked_for_again_afterwards_but_not_among_what_stays():
    gc.unfreeze()
    try:
        with uncollected():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled()
        frozen = gc.get_freeze_count()
        assert frozen >= len(kept)
        with uncollected():
            later = [[] for _ in range(1000)]
        assert gc.get_freeze_count() <= frozen  # models that are loaded one after the other leave nothing behind
        assert len(later) == 1000
        with pytest.raises(ValueError, match="of the block"), uncollected():
            raise ValueError("of the block")
        assert gc.isenabled()
        gc.disable()
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
