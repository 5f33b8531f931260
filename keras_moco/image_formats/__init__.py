"""Image files of every format as arrays: one file per reader; `FORMATS` is the registry."""

from keras_moco.image_formats.decoding import Decoding
from keras_moco.image_formats.registry import (
    FORMATS,
    RULE,
    SUFFIXES,
    Facts,
    Format,
    Raw,
    facts_of,
    format_of,
    missing_library,
    read,
    what_is_wrong,
)

__all__ = [
    "FORMATS",
    "RULE",
    "SUFFIXES",
    "Decoding",
    "Facts",
    "Format",
    "Raw",
    "facts_of",
    "format_of",
    "missing_library",
    "read",
    "what_is_wrong",
]
