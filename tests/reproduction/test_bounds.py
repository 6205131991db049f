"""The bounds of rounding at step 0: the true values lie within them, and what is wrong by one per cent does not."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import reproductions
from helpers.reproductions import config, step0
from torch import Tensor

from initlab.nn import activations, init, mlp
from initlab.nn.activations import ReLU
from initlab.reproduction.bounds import step0_bounds

SCHEMES: dict[str, tuple[init.Scheme, activations.Activation]] = {
    "kaiming": (init.kaiming(), ReLU()),
    "shifted_relu": (init.kaiming(), ReLU(shift=0.5)),
    "kaiming_leaky": (init.kaiming(0.01), ReLU(leak=0.01)),
    "pytorch": (init.TorchLinear(), ReLU()),
    "lsuv": (init.LSUV(images=100), ReLU()),
    "normal": (init.VarianceScaling(1, "one"), ReLU()),
    "tanh": (init.Orthogonal(), activations.Tanh()),
    "gelu": (init.kaiming(), activations.GELU(scale=1.2)),
    "kaiming_tenth": (init.kaiming(0.1), ReLU(leak=0.1)),
    "unit_relu": (init.VarianceScaling(1), ReLU(shift=0.4, scale=1.7)),
}


def bounds(
    there: dict[str, np.ndarray], here: dict[str, np.ndarray], name: str, **changes: Any
) -> dict[str, np.ndarray]:
    """Of the error of `here`, of this scheme."""
    scheme, phi = SCHEMES[name]
    target = f"{type(scheme).__module__}.{type(scheme).__name__}"
    constants = {"_target_": f"{type(phi).__module__}.{type(phi).__name__}", **phi.constants}
    settings = config(init__weights={"_target_": target}, activation=constants, **changes)
    widths = [reproductions.INPUTS, *reproductions.HIDDEN, reproductions.OUTPUTS]
    layers = range(1, len(reproductions.HIDDEN) + 1)
    same = [there[f"layer{n}/saturated_fraction"] == here[f"layer{n}/saturated_fraction"] for n in layers]
    with np.errstate(all="ignore"):
        return step0_bounds(there, settings, widths, reproductions.IMAGES, same)


@pytest.mark.parametrize("name", SCHEMES)
def test_float32_is_within_its_bounds_of_float64(name: str) -> None:
    """Every statistic, layer and replica; and bounds of the forward pass are sharp, some millionths of the value."""
    exact, rounded = step0(*SCHEMES[name], dtype=torch.float64), step0(*SCHEMES[name])
    found = bounds(exact, rounded, name)
    assert found.keys() == exact.keys()
    for statistic, bound in found.items():
        assert (np.abs(rounded[statistic] - exact[statistic]) <= bound).all(), statistic
        if statistic.endswith(("preact_std", "act_std", "weight_std")):
            assert (bound < 2e-5 * exact[statistic]).all(), statistic


def test_bfloat16_is_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `matmul_precision=medium` multiplies where there are units for it: operands are rounded, sums are not."""
    exact = step0(dtype=torch.float64)
    for name in ("linear", "linear_backward", "linear_backward_input", "linear_sgd_step"):
        monkeypatch.setattr(mlp, name, _rounding(getattr(mlp, name)))
    rounded = step0()
    found = bounds(exact, rounded, "kaiming", matmul_precision="medium")
    off = {name: np.abs(rounded[name] - exact[name]) for name in exact}
    assert off["layer5/preact_std"].max() > 1e-5 * exact["layer5/preact_std"].max()  # it is another precision
    assert all((off[name] <= bound).all() for name, bound in found.items())
    sharp = bounds(exact, rounded, "kaiming")
    assert not (off["layer5/preact_std"] <= sharp["layer5/preact_std"]).all()


def _rounding(function: Any) -> Any:
    """The same function of float32 tensors that have been rounded to bfloat16; what it changes in place is not."""

    def rounded(*tensors: Any, **options: Any) -> Any:
        operands = [t.bfloat16().float() if isinstance(t, Tensor) and t.dim() > 1 else t for t in tensors]
        if function.__name__ == "linear_sgd_step":
            operands[:2] = tensors[:2]
        if function.__name__ == "linear":
            operands[2] = tensors[2]
        return function(*operands, **options)

    return rounded


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("gain", [1.98, 2.02])
def test_a_gain_off_by_one_per_cent_is_beyond_them(gain: float, precision: str) -> None:
    """The bounds of both results together: a draw is rounded to float32 in any precision."""
    there, here = step0(), step0(init.kaiming(gain=gain))
    found = bounds(there, here, "kaiming", matmul_precision=precision)
    for layer in range(1, 6):
        name = f"layer{layer}/weight_std"
        assert (np.abs(here[name] - there[name]) > 2 * found[name]).all()
