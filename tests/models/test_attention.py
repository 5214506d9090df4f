import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from klvi.models import attention
from klvi.models.attention import (
    FEWEST_KEYS,
    MOST_TOKENS,
    WIDEST_HEAD,
    attend_causally,
    attend_once,
)

HEADS = 3


def by_torch(projected: torch.Tensor, scale: float) -> torch.Tensor:
    split = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in projected.chunk(3, -1)]
    read = scaled_dot_product_attention(*split, is_causal=True, scale=scale)
    return read.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("length", [1, 2, 17, MOST_TOKENS, MOST_TOKENS + 1])
@pytest.mark.parametrize("head", [4, WIDEST_HEAD, WIDEST_HEAD + 8])
def test_sequences_are_read_as_torch_reads_them(length: int, head: int) -> None:
    generator = torch.Generator().manual_seed(length + head)
    leaf = torch.randn(5, length, 3 * HEADS * head, generator=generator, dtype=torch.float64)
    leaf.requires_grad_()
    weight = torch.randn(5, length, HEADS * head, generator=generator, dtype=torch.float64)
    found, expected = attend_causally(leaf, HEADS, 0.4), by_torch(leaf, 0.4)
    assert_close(found, expected)
    gradients = [torch.autograd.grad((states * weight).sum(), leaf) for states in (found, expected)]
    assert_close(*gradients)


def test_the_short_way_is_differentiated_right() -> None:
    generator = torch.Generator().manual_seed(0)
    leaf = torch.randn(2, 4, 3 * HEADS * 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda projected: attend_causally(projected, HEADS, 0.7), leaf.requires_grad_()
    )


def test_only_what_is_short_and_narrow_is_read_the_short_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[torch.Size] = []

    def counted(query: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        calls.append(query.shape)
        return query

    monkeypatch.setattr(attention, "scaled_dot_product_attention", counted)
    for length, head in ((MOST_TOKENS, WIDEST_HEAD), (MOST_TOKENS + 1, 4), (2, WIDEST_HEAD + 1)):
        attend_causally(torch.zeros(1, length, 3 * HEADS * head), HEADS, 1.0)
    half = torch.zeros(1, 3, 3 * HEADS * 4, dtype=torch.bfloat16)
    attend_causally(half, HEADS, 1.0)
    cache = torch.zeros(1, HEADS, FEWEST_KEYS, 5, dtype=torch.bfloat16)
    attend_once(cache[:, :, :1], cache, cache, None, 1.0)
    assert [(shape[2], shape[3]) for shape in calls] == [
        (MOST_TOKENS + 1, 4),
        (2, WIDEST_HEAD + 1),
        (3, 4),
        (1, 5),
    ]


@pytest.mark.parametrize("keys", [1, FEWEST_KEYS - 1, FEWEST_KEYS, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_one_query_reads_as_torch_does(keys: int, padded: bool) -> None:
    generator = torch.Generator().manual_seed(keys)
    query = torch.randn(5, HEADS, 1, 8, generator=generator, dtype=torch.float64)
    cache = torch.randn(2, 5, HEADS, keys + 3, 8, generator=generator, dtype=torch.float64)
    # Views of a larger buffer, as a cache gives them.
    key, value = cache[..., :keys, :]
    mask = None
    if padded:
        mask = torch.rand(5, 1, 1, keys, generator=generator) < 0.7
        mask[..., -1] = True
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    assert_close(attend_once(query, key, value, mask, 0.3), expected)
