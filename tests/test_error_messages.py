"""Every refusal of the package says what must hold, what was received and what to do, in this order.

Read from the source, so that a message counts whether or not a test provokes it. Other tests match its variable parts.
"""

import ast
import re
from pathlib import Path

import keras_moco
from keras_moco.errors import UserError, UserOSError

PACKAGE = Path(keras_moco.__file__).parent
REFUSALS = {"UserError", "MissingPackageError", "ImportError", "RuntimeError", "BadImagesError", "NotFiniteError"}
REFUSALS |= {"WorkerLost"}
# Beginnings of strings that are joined with others to a message, and how.
JOINED = {
    "Every tensor of the file must have its weight in the model": "what was received is a list of lines",
    "Received: {}, unmatched (- in the file": "this list",
    "{} Received: tfds:{}, not prepared in {}": "the beginning of the three below",
    "{}. Put its files into": "an ending of it",
    "{}, and there is no internet here.": "an ending of it",
    "{}, and preparing it failed": "an ending of it, with the reason that TFDS gives",
}
# `{}` stands for what varies, which may be a whole rule or a whole way out.
GRAMMAR = re.compile(
    r"(\{\}|.*\b(must|may|holds|needs)\b.*[.)]) Received: .+(\.| says: \{\}) (\(?[A-Z`].*[.)}]|\{\}.*)"
)


def text_of(node):
    """The text of a string expression with `{}` for what varies; `None` where it is no such expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is right is None else (left or "{}") + (right or "{}")
    return None


def strings_in(node):
    """The outermost string expressions below a node of the syntax tree."""
    if (text := text_of(node)) is not None:
        yield text
        return
    for child in ast.iter_child_nodes(node):
        yield from strings_in(child)


def is_joined(text):
    return text.startswith(tuple(JOINED))


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def test_refusals_say_what_was_received():
    missing = [
        f"{path}:{node.lineno}: {message}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
        if ast.unparse(node.exc.func).rpartition(".")[2] in REFUSALS
        if (message := text_of(node.exc.args[0])) and "Received: " not in message and not is_joined(message)
    ]
    assert not missing, "\n".join(missing)


def test_refusals_begin_with_the_rule_and_end_with_the_way_out():
    texts = [(path, text) for path, tree in TREES.items() for text in strings_in(tree)]
    messages = [(path, text) for path, text in texts if "Received: " in text and not is_joined(text)]
    assert len(messages) > 200
    wrong = [f"{path}: {text}" for path, text in messages if not GRAMMAR.fullmatch(text)]
    assert not wrong, "\n".join(wrong)
    assert all(any(text.startswith(start) for _, text in texts) for start in JOINED), "one of JOINED is gone"


def test_name_in_a_message_cannot_end_its_line_or_control_the_terminal():
    names = "a\nerror: b", "\x1b]0;c", "Zoë\udcff", "d\u202egpj"
    assert str(UserError("Received: {}, {}, {}, {}.\n  - x".format(*names))) == (
        "Received: a\\nerror: b, \\x1b]0;c, Zoë\\udcff, d\\u202egpj.\n  - x"
    )
    assert str(UserOSError("none\r\n")) == "none\\r\\n"


def test_grammar_refuses_a_message_that_lacks_a_part():
    assert GRAMMAR.fullmatch("`k` must be positive. Received: k={}. Choose 1 or more.")
    assert not GRAMMAR.fullmatch("`k` must be positive. Received: k={}.")
    assert not GRAMMAR.fullmatch("`k` must be positive Received: k={}. Choose 1 or more.")
    assert not GRAMMAR.fullmatch("A bad number. Received: k={}. Choose 1 or more.")
