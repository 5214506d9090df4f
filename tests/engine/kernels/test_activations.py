import pytest
import torch
from torch.nn.functional import gelu
from torch.testing import assert_close
from transformers.activations import NewGELUActivation

from klvi.engine.kernels.activations import PART, TanhGELU


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_and_gradients_are_those_of_gpt2(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = (5 * torch.randn(3, PART // 2, 1, generator=generator)).to(dtype).transpose(0, 1)
    weight = torch.randn(inputs.shape, generator=generator).to(dtype)
    found, expected = ([], [])
    for function, into in ((TanhGELU(), found), (NewGELUActivation(), expected)):
        leaf = inputs.clone().requires_grad_()
        outputs = function(leaf)
        (outputs * weight).sum().backward()
        into += [outputs.detach(), leaf.grad]
    assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert_close(found[0], gelu(inputs, approximate="tanh"), atol=tolerance, rtol=tolerance)


def test_half_precision_is_torchs_own() -> None:
    inputs = torch.linspace(-4, 4, 99, dtype=torch.bfloat16)
    assert torch.equal(TanhGELU()(inputs), gelu(inputs, approximate="tanh"))


def test_far_out_it_is_the_identity_or_nothing() -> None:
    leaf = torch.tensor([-1e4, -50.0, 50.0, 1e4], requires_grad=True)
    outputs = TanhGELU()(leaf)
    outputs.sum().backward()
    assert outputs.tolist() == [0.0, 0.0, 50.0, 1e4]
    assert leaf.grad.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_the_slope_at_zero_is_a_half() -> None:
    leaf = torch.tensor([-1e-30, 0.0, 1e-30], requires_grad=True)
    TanhGELU()(leaf).sum().backward()
    assert leaf.grad.tolist() == [0.5, 0.5, 0.5]
