"""The types of the public names, which a type checker reads (`py.typed`): nothing is left without an annotation."""

import inspect

from tests.registry import public_names, public_object


def functions_of(found):
    """The functions of a public object that this package defines: itself, or the public methods of a class."""
    if inspect.isfunction(found):
        yield found
    for kind in inspect.getmro(found) if isinstance(found, type) else ():
        if kind.__module__.startswith("keras_moco."):
            for name, each in vars(kind).items():
                each = each.fget if isinstance(each, property) else getattr(each, "__func__", each)
                if inspect.isfunction(each) and (name == "__init__" or not name.startswith("_")):
                    yield each


def without_type(function):
    """The parameters of a function without an annotation, and `return` where its result has none: a list."""
    signature = inspect.signature(function)
    found = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
    return found + ["return"] * (signature.return_annotation is signature.empty)


def test_public_names_are_annotated():
    functions = {each for name in public_names() for each in functions_of(public_object(name))}
    assert len(functions) > 300
    found = {f"{each.__module__}.{each.__qualname__}": without_type(each) for each in functions}
    assert {name: parameters for name, parameters in found.items() if parameters} == {}


def test_missing_annotations_are_found():
    class Example:
        def method(self, first, second: int, *args, **kwargs: int): ...

    assert without_type(Example.method) == ["first", "args", "return"]
    assert [without_type(each) for each in functions_of(test_missing_annotations_are_found)] == [["return"]]
