"""Errors that say what was wrong, what was seen and what to type.

Every deliberate error is a `GlasshouseError` and also the builtin it specialises, so that
`except LookupError` and `except GlasshouseError` both work. `hint` holds the last part, what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class GlasshouseError(Exception):
    """Base of all errors raised on purpose. `hint` says what to do about it."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(f"{message} {hint}".strip())
        self.message, self.hint = message, hint


class NotFound(GlasshouseError, LookupError):
    """A name that is not there; the message lists the nearest names that are."""


class LayerNotFound(NotFound):
    """No layer of that name in the model, or the layer did not run."""


class BadInput(GlasshouseError, ValueError):
    """A value that cannot be used: wrong shape, range, type or file."""


class BadImage(BadInput):
    """A file that cannot be read as an image."""


class BadModel(BadInput):
    """A model that cannot be loaded, run or explained by the method asked for."""


class NothingMatched(GlasshouseError, RuntimeError):
    """A rule, mask or edit applied to nothing; the answer would silently be another method's."""


class MissingPackage(GlasshouseError, ImportError):
    """An optional package is needed, and absent or broken."""


class OutOfMemory(GlasshouseError, MemoryError):
    """Memory ran out for a single image; less cannot be tried."""


class Interrupted(GlasshouseError, RuntimeError):
    """Work stopped before its end; what was finished is kept, in `finished` where there is no file of it."""

    def __init__(self, message: str, hint: str = "", finished: object = None):
        super().__init__(message, hint)
        self.finished = finished


def nearest(name: str, names: Iterable[str], n: int = 3) -> str:
    """`"Did you mean 'a', 'b'?"`, or the first few names when none is close."""
    names = list(names)
    close = get_close_matches(name, names, n=n, cutoff=0.5)
    if close:
        return "Did you mean " + ", ".join(repr(c) for c in close) + "?"
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"There are: {shown}." if names else "There are none."


def not_found(kind: str, name: str, names: Iterable[str], error: type[NotFound] = NotFound) -> NotFound:
    """The error for a `kind` ("layer", "method", …) called `name` that is not among `names`."""
    names = list(names)
    return error(f"no {kind} '{name}' here ({len(names)} known).", nearest(name, names))
