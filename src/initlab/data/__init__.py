"""Data sets: download, verification, normalisation, and Lightning's data module."""


class DataError(ValueError):
    """A data file is missing, damaged, or not what was expected."""
