import torch
from support import sliding_window_config
from torch.testing import assert_close
from transformers import DynamicCache, GPT2Config, MistralForCausalLM

from klvi.engine.cache import ReservedLayer, reserved_cache


def states(seed: int, tokens: int, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 2, tokens, 4, generator=generator)
    return keys, values


def test_it_holds_what_transformers_own_cache_holds() -> None:
    config = GPT2Config(n_layer=1)
    ours, plain = reserved_cache(config, 6), DynamicCache(config=config)
    for cache in (ours, plain):
        cache.update(*states(0, 2), 0)
        cache.update(*states(1, 1), 0)
        cache.reorder_cache(torch.tensor([2, 0, 2, 2]))
        cache.update(*states(2, 1, rows=4), 0)
    assert isinstance(ours.layers[0], ReservedLayer)
    assert ours.get_seq_length() == plain.get_seq_length() == 4
    found, expected = (cache.update(*states(3, 2, rows=4), 0) for cache in (ours, plain))
    assert_close(found, expected, atol=0, rtol=0)


def test_nothing_is_copied_from_token_to_token() -> None:
    cache = reserved_cache(GPT2Config(n_layer=1), 5)
    first, _ = cache.update(*states(0, 2), 0)
    later, _ = cache.update(*states(1, 1), 0)
    assert first.data_ptr() == later.data_ptr()


def test_layers_of_another_kind_stay_as_they_are() -> None:
    config = sliding_window_config()
    assert not any(isinstance(layer, ReservedLayer) for layer in reserved_cache(config, 9).layers)
    model = MistralForCausalLM(config).eval()
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        cache = reserved_cache(config, 9)
        for t in range(6):
            step = model(input_ids=tokens[:, t : t + 1], past_key_values=cache, use_cache=True)
        whole = model(input_ids=tokens)
    assert_close(step.logits[:, -1], whole.logits[:, -1], atol=1e-5, rtol=1e-4)
