"""The command `initlab theory`: what theory expects of a network, from its configuration, without torch or data."""

import json
from collections.abc import Sequence
from math import isinf, isnan
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from initlab.checks import check_type
from initlab.nn import init, theory
from initlab.resolvers import PREFIX

INPUTS, CLASSES = 784, 10  # MNIST's, where the data set is not here
ROW = "{:>5}  {:>5}  {:>9}  {:>9}  {:>9}  {:>9}  {:>6}  {:>8}"
HEADER = ROW.format("layer", "width", "std of z", "mean of a", "std of a", "saturated", "cosine", "backward")


def describe(overrides: Sequence[str]) -> str:
    """Returns the table of a configuration, given as `python train.py` takes it: init=critical activation=tanh.

    Raises ValueError, in one line, for what can't be used; FileNotFoundError if there is no configuration here.
    """
    folder = Path("conf").absolute()
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} holds no config.yaml; type this in the project's folder")
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = compose("config", list(overrides))
            scheme, phi = instantiate(config.init.weights), theory.Phi.of(config.activation)
            widths = _widths(config)
    except (HydraException, OmegaConfBaseException) as error:
        text = str(error.__cause__ or error) if "Error in call" in str(error) else str(error)
        if text.startswith(PREFIX):
            raise ValueError(text.removeprefix(PREFIX).partition("\n")[0]) from error
        raise ValueError(" ".join(text.partition("\nConfig search path:")[0].split())) from error
    check_type("init.weights", scheme, init.Scheme)
    scheme = scheme.for_activation(config.activation)
    title = f"{scheme}\n{phi}\n{'-'.join(map(str, widths))}; images whose pixels have mean square 1, uncorrelated"
    if not scheme.zero_mean:
        return f"{title}\n\nTheory is of weights with mean zero: it says nothing about these."
    return f"{title}\n\n{_table(scheme, phi, widths)}\n\n{_depth(scheme, phi, widths)}"


def _widths(config: DictConfig) -> list[int]:
    """Returns [inputs, hidden..., outputs]. Raises ValueError for a width below 1."""
    facts = {"inputs": INPUTS, "classes": CLASSES}
    path = Path(str(config.data.folder), "facts.json")
    if path.is_file():
        facts |= json.loads(path.read_text(encoding="utf-8"))
    outputs = 1 if config.loss._target_.endswith(".MeanSquaredError") else facts["classes"]
    if not OmegaConf.is_list(config.model.hidden):
        raise ValueError(f"model.hidden is {config.model.hidden!r}; expected a list of widths, [100] for one layer")
    widths = [facts["inputs"], *config.model.hidden, outputs]
    init.check_sizes(widths, replicas=1, seed=0)
    return widths


def _table(scheme: init.Scheme, phi: theory.Phi, widths: list[int]) -> str:
    n = float(widths[0])
    found = theory.moments(init.drawn_layers(scheme, widths), [n, n], phi, [[n, 0.0], [0.0, n]])
    rows = [HEADER]
    for number, (layer, width) in enumerate(zip(found, widths[1:], strict=True), start=1):
        hidden = number < len(found)
        mean = layer.act_mean if abs(layer.act_mean) > 1e-12 * layer.act_std else 0.0  # without rounding's
        numbers = [f"{value:.4g}" for value in (layer.preact_std, mean, layer.act_std)]
        others = [f"{100 * layer.saturated_fraction:.1f} %", f"{layer.act_cosine:.3f}", f"{layer.backward_ratio:.3f}"]
        rows.append(ROW.format(number, width, *numbers, *(others if hidden else [""] * 3)).rstrip())
    return "\n".join(rows)


def _depth(scheme: init.Scheme, phi: theory.Phi, widths: list[int]) -> str:
    """Says what becomes of a signal in many more hidden layers, as wide as the last one."""
    if len(widths) < 3:
        return "There is no hidden layer."
    (layer,) = init.drawn_layers(scheme, [widths[-2], widths[-2]])
    gain = theory.unit_gain(phi) if layer.variance is None else layer.fan_in * layer.variance
    if gain == 0 and layer.bias_variance == 0:
        return "Every pre-activation is 0, whatever the image."
    found = theory.propagation(gain, phi, layer.bias_variance)
    return "\n".join(
        [
            f"More layers of {widths[-2]} units: sigma_w^2 = {gain:.4g}, sigma_b^2 = {layer.bias_variance:.4g}",
            f"  q*     {_point(found.q):>7}   mean square of z that an image tends to",
            f"  xi_q   {_number(found.xi_q):>7}   layers in which it gets nearer by a factor of e",
            f"  chi_1  {_number(found.chi_1):>7}   growth per layer of a small difference, and of a gradient's square",
            f"  c*     {_number(found.c):>7}   correlation that two images tend to",
            f"  xi_c   {_number(found.xi_c):>7}   layers in which it gets nearer by a factor of e",
        ]
    )


def _point(q: float) -> str:
    return "any" if isnan(q) else "grows" if isinf(q) else f"{q:.4g}"


def _number(value: float) -> str:
    return "-" if isnan(value) else f"{value:.4g}"
