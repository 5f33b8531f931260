"""A function with arguments as text, such as `package.module:function(depth=2)`; nothing in it is run."""

import ast
from typing import Any, NamedTuple

BACKBONE_FORM = (
    "keras.applications:NAME, keras_hub:NAME, MODULE:FUNCTION, each also with values of arguments such as (depth=2), "
    "or FILE.keras"
)


class Call(NamedTuple):
    """What `read_call` finds: where it is, the name, and the arguments, `None` where there are no parentheses."""

    place: str
    name: str
    arguments: dict[str, Any] | None


def read_call(text: str) -> Call | None:
    """Reads `PLACE:NAME` or `PLACE:NAME(argument=value, ...)` with values that are literals of Python.

    Returns:
        `Call`, or `None` if the text has another form. Without parentheses the name may hold anything.

    Example:

    >>> read_call("package.module:net(depth=2, sizes=[3, 5])")
    Call(place='package.module', name='net', arguments={'depth': 2, 'sizes': [3, 5]})
    >>> read_call("package.module:net(depth=open('file'))")
    """
    place, colon, rest = text.partition(":")
    if not colon or not rest or not all(part.isidentifier() for part in place.split(".")):
        return None
    if "(" not in rest:
        return Call(place, rest, None)
    try:
        call = ast.parse(rest.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        return None
    try:
        arguments = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, RecursionError):
        return None
    return None if "" in arguments else Call(place, call.func.id, arguments)  # `**more` has no name


def is_backbone_form(text: str) -> bool:
    """Whether a text has one of the forms of `BACKBONE_FORM`."""
    if text.endswith(".keras"):
        return True
    call = read_call(text)
    if call is None or "(" not in text and ")" in text:
        return False
    # KerasHub's names may be those of folders and of other servers.
    return call.place == "keras_hub" or call.name.isidentifier()
