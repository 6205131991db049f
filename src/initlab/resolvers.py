"""OmegaConf resolvers: functions that files in conf/ call, as ${uniform_widths:100,30}. An import registers them."""

from omegaconf import ListConfig, OmegaConf

from initlab.checks import check_int

PREFIX = "ValueError raised while resolving interpolation: "  # what OmegaConf puts before their messages
DEEPEST = 10_000  # hidden layers: each takes Python objects of its own, long before its weights are drawn


def uniform_widths(width: int, depth: int) -> ListConfig:
    """Returns the widths of `depth` hidden layers of `width` units. Raises ValueError for values out of range."""
    check_int("model.width", width, least=1)
    check_int("model.depth", depth, least=0)
    if depth > DEEPEST:
        raise ValueError(f"model.depth is {depth}; expected at most {DEEPEST:,} hidden layers")
    return ListConfig([width] * depth)


OmegaConf.register_new_resolver("uniform_widths", uniform_widths, replace=True)
