"""Checks of single values. Each raises ValueError with the value's name, the value and what was expected."""

LARGEST = 1e18  # largest number allowed: its square, and weights drawn with it, are within float32's range


def check_int(name: str, value: object, *, least: int) -> None:
    """Raises ValueError unless the value is an integer of at least `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")


def check_number(name: str, value: object) -> None:
    """Raises ValueError unless the value is a finite number of at most 1e18 in size."""
    if not _is_number(value):
        raise ValueError(f"{name} is {value!r}; expected a finite number, up to {LARGEST}")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless the value is a positive number of at most 1e18."""
    if not _is_number(value) or not value > 0:
        raise ValueError(f"{name} is {value!r}; expected a positive number, up to {LARGEST}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless the value is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def check_type(name: str, value: object, kind: type) -> None:
    """Raises ValueError unless the value is of type `kind`."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}; expected {kind.__module__}.{kind.__qualname__}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
