from dataclasses import replace

import pytest
import torch
from support import made_samples
from torch.testing import assert_close

from klvi.samples import Samples


def test_the_mask_tells_real_tokens() -> None:
    samples = made_samples([1, 3])
    assert samples.mask.tolist() == [[True, False, False], [True, True, True]]


def test_a_selection_keeps_rows_together() -> None:
    samples = made_samples([1, 3, 2])
    chosen = samples.select(torch.tensor([2, 0]))
    assert chosen.lengths.tolist() == [2, 1]
    assert_close(chosen.reward, samples.reward[[2, 0]])
    assert_close(chosen.log_prior, samples.log_prior[[2, 0]])
    assert len(chosen.texts) == len(chosen) == 2


def test_compact_samples_lose_padding_alone() -> None:
    samples = made_samples([1, 4, 2])
    short = samples.select(torch.tensor([0, 2])).compact()
    assert short.tokens.shape == (2, 2)
    assert_close(short.log_policy_sequence, samples.log_policy_sequence[[0, 2]])


def test_concatenation_pads_to_the_longest() -> None:
    first, second = made_samples([1, 2]), made_samples([4], seed=1)
    both = Samples.concatenate([first, second])
    assert both.tokens.shape == (3, 4)
    assert both.mask.sum() == 7
    expected = torch.cat([first.log_policy_sequence, second.log_policy_sequence])
    assert_close(both.log_policy_sequence, expected)
    assert both.entropy is None


def test_equal_sequences_are_found() -> None:
    samples = made_samples([2, 3, 1])
    repeated = samples.select(torch.tensor([1, 0, 1, 2, 0, 0]))
    first, place = repeated.distinct_inputs()
    assert sorted(first.tolist()) == [0, 1, 3]
    assert torch.equal(repeated.tokens[first][place], repeated.tokens)
    assert torch.equal(repeated.lengths[first][place], repeated.lengths)


def test_the_last_token_is_no_input() -> None:
    samples = made_samples([3, 3, 2, 2, 3])
    tokens = torch.tensor([[1, 2, 0], [1, 2, 3], [1, 0, 9], [1, 3, 7], [1, 0, 2]])
    first, place = replace(samples, tokens=tokens).distinct_inputs()
    assert place[0] == place[1]
    assert place[2] == place[3]
    assert len(first) == 3


def test_where_all_sequences_differ_each_stands_for_itself() -> None:
    first, place = made_samples([2, 3, 1]).distinct_inputs()
    assert first.tolist() == place.tolist() == [0, 1, 2]


def test_replicates_of_different_parts_stay_apart() -> None:
    first = replace(made_samples([1, 2]), replicate=torch.tensor([7, 7]))
    both = Samples.concatenate([first, first, made_samples([4])])
    assert both.replicate is not None
    assert both.replicate.tolist() == [0, 0, 1, 1, 2]
    assert both.select(torch.tensor([4, 0])).replicate.tolist() == [2, 0]  # type: ignore[union-attr]


def test_parts_without_weights_get_equal_ones() -> None:
    first = replace(made_samples([1, 2]), log_weight=torch.tensor([0.5, -0.5]))
    both = Samples.concatenate([first, made_samples([4])])
    assert both.log_weight is not None
    assert both.log_weight.tolist() == [0.5, -0.5, 0.0]


@pytest.mark.parametrize("name", ["replicate", "log_weight", "log_density"])
def test_a_number_per_sample_has_one_for_each(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(made_samples([1, 2]), **{name: torch.zeros(2, 1)})
