"""Data sets: downloaded, verified, normalised and handed to Lightning."""


class DataError(ValueError):
    """A data file is missing, damaged, or not what was expected."""
