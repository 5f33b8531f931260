"""The members of a `.keras` file, which is a zip archive, and the memory that its model may use."""

import collections
import contextlib
import io
import json
import math
import re
import stat
import zipfile
import zlib
from pathlib import PurePosixPath

import keras

from keras_moco.errors import UserError
from keras_moco.trust.hdf5 import MOST_EXPANSION, SMALL, check_weights
from keras_moco.trust.keras_config import check_config

CONFIG, METADATA, WEIGHTS, ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets"
COMPILE = "compile_from_config"
LARGEST_CONFIG = 2**25  # bytes; keras.applications' largest network has 2**21
# Bytes of variables that are not in the weights, such as the counters of random layers.
SPARE = 2**24


def check_keras_file(path):
    """Refuses a `.keras` file that could do more than build a model and fill it with the file's weights.

    Nothing in it is built, imported or unpacked.

    Args:
        path: `pathlib.Path` of the file.

    Returns:
        int, the bytes of its weights.

    Raises:
        ValueError: if it is damaged, has members that Keras does not write, unpacks to too much, or names code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            config = json.loads(archive.read(CONFIG))
            check_config(config, path)
            return check_weights(path, io.BytesIO(archive.read(WEIGHTS)))
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(
            f"A .keras file must describe its layers without deep nesting. Received: {path}, nested deeper than any "
            "model. Do not use this file."
        ) from error
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"A .keras file must be complete. Received: {path}, which is damaged, cut off, or something else: {error}. "
            "Export it again."
        ) from error


def _check_members(archive, path):
    members = archive.infolist()
    names = [member.filename for member in members]
    odd = [name for member, name in zip(members, names, strict=True) if not _is_known(member)]
    odd += [name for name, number in collections.Counter(names).items() if number > 1]
    if missing := {CONFIG, WEIGHTS} - set(names):
        raise UserError(
            f"A .keras file must hold {CONFIG} and {WEIGHTS}. Received: {path} without {min(missing)}. Save it again."
        )
    if odd:
        raise UserError(
            f"A .keras file must hold {CONFIG}, {METADATA}, {WEIGHTS} and files in {ASSETS}, each once, and nothing "
            f"else. Received: {path} with {odd[0]!r}; nothing was unpacked. Do not use this file."
        )
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > max(SMALL, MOST_EXPANSION * size) or archive.getinfo(CONFIG).file_size > LARGEST_CONFIG:
        raise UserError(
            "A .keras file must not be much larger when it is unpacked. "
            f"Received: {path} of {size:,} bytes, which would become {total:,}. Do not use this file."
        )


def _is_known(member):
    """Whether Keras writes such a member: no link, no password, and no path out of the archive's folder."""
    kind, parts = stat.S_IFMT(member.external_attr >> 16), PurePosixPath(member.filename).parts
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or member.flag_bits & 1 or set(member.filename) & set("\\:\0"):
        return False
    return member.filename in (CONFIG, METADATA, WEIGHTS) or parts[:1] == (ASSETS,) and ".." not in parts


@contextlib.contextmanager
def limited_weights(limit, path):
    """Refuses variables that the weights of the file could not fill, before memory is allocated for them.

    Args:
        limit: int, the bytes of the weights.
        path: path of the file, for the message.

    Raises:
        ValueError: once the layers ask for more bytes than that.
    """
    add_weight, left = keras.Layer.add_weight, limit + SPARE

    def counted(layer, shape=None, initializer=None, dtype=None, *args, **kwargs):
        nonlocal left
        sides = shape if isinstance(shape, list | tuple) else [shape]
        size = math.prod(abs(side) for side in sides if isinstance(side, int)) * _bytes_of(
            dtype or layer.variable_dtype
        )
        left -= size
        if left < 0:
            raise UserError(
                "The weights of a .keras file must fill its model. "
                f"Received: {path} with {limit:,} bytes of weights, and a layer {type(layer).__name__} that asks for "
                f"{size:,} bytes. Do not use this file."
            )
        return add_weight(layer, shape, initializer, dtype, *args, **kwargs)

    keras.Layer.add_weight = counted  # every layer creates its variables by it
    try:
        yield
    finally:
        keras.Layer.add_weight = add_weight


def _bytes_of(dtype):
    """The bytes of one element, from the number in the name of its dtype."""
    bits = re.search(r"\d+", keras.backend.standardize_dtype(dtype))
    return max(1, int(bits[0]) // 8) if bits else 1


@contextlib.contextmanager
def nothing_compiled():
    """Keras compiles no model within a model either; `compile=False` concerns the outermost one alone.

    Their metrics would create variables, as many as the file asks for.
    """
    classes = {keras.Model, *(each for each in keras.saving.get_custom_objects().values() if _is_model(each))}
    own = {each: vars(each).get(COMPILE) for each in classes}
    skipped = []
    for each in classes:
        setattr(each, COMPILE, lambda model, config: skipped.append(model))
    try:
        yield
    finally:
        for each, method in own.items():
            delattr(each, COMPILE) if method is None else setattr(each, COMPILE, method)
        for model in skipped:
            model.compiled = False  # Keras has set it to True


def _is_model(found):
    return isinstance(found, type) and issubclass(found, keras.Model)
