"""Every example in a docstring runs and prints what it says."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import textwrap

import keras
import numpy as np
import pytest
from keras import ops

import keras_moco

MODULES = sorted(module.name for module in pkgutil.walk_packages(keras_moco.__path__, "keras_moco."))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# What examples may use without importing it, beside the names of their own module.
ALWAYS_THERE = {"keras": keras, "np": np, "ops": ops}


def examples(module):
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    report = []
    for test in examples(module):
        test.globs = {**ALWAYS_THERE, **vars(module)}
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_fenced_docstring_examples_are_python(name):
    module = importlib.import_module(name)
    for docstring in docstrings(module):
        for block in docstring.split("```python")[1:]:
            ast.parse(textwrap.dedent(block.split("```")[0]))


def docstrings(module):
    """The docstrings of a module, of its classes and functions, and of their methods."""
    tree = ast.parse(inspect.getsource(module))
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, holders) and (text := ast.get_docstring(node)):
            yield text


def test_there_are_examples():
    assert sum(len(examples(importlib.import_module(name))) for name in MODULES) > 10
