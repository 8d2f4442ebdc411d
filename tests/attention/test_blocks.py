"""Attention in blocks is what torch's own is."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lab.attention import blocks
from lab.attention.capture import tower_attention


def made(length: int, heads: int, keys: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, number, length, 16, dtype=dtype) for number in (heads, keys, keys))


@pytest.mark.parametrize("length", [1, blocks.BLOCK - 1, blocks.BLOCK, 2 * blocks.BLOCK + 5])
@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("causal", [True, False])
def test_it_is_attention_of_any_length_and_of_grouped_heads(length, heads, keys, causal):
    query, key, value = made(length, heads, keys, torch.float32)
    expected = scaled_dot_product_attention(query, key, value, is_causal=causal, scale=0.3, enable_gqa=True)
    found = blocks.attend(query, key, value, 0.3, causal=causal)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("keys", [3, 5, 9])
def test_a_tower_whose_queries_look_elsewhere_sees_all_keys(keys):
    torch.manual_seed(0)
    query = torch.randn(1, 2, 5, 8, dtype=torch.bfloat16)
    key, value = torch.randn(2, 1, 2, keys, 8, dtype=torch.bfloat16)
    exact = scaled_dot_product_attention(query.double(), key.double(), value.double()).transpose(1, 2)
    layer = torch.nn.Module()
    layer.is_causal = False
    assert (tower_attention(layer, query, key, value, None)[0].double() - exact).abs().max() < 2**-5


def test_in_half_precision_it_is_as_near_as_rounding_allows():
    query, key, value = made(300, 4, 4, torch.bfloat16)
    exact = scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
    found = blocks.attend(query, key, value, 0.25, causal=True)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact.transpose(1, 2)).abs().max() < 2**-5


def test_only_bfloat16_on_a_processor_takes_this_way():
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    taking = [dtype for dtype in dtypes if blocks.worthwhile(torch.zeros(1, dtype=dtype))]
    assert taking == [torch.bfloat16]
