"""Checks what a SavedModel, which is a program, would do: its file is read before TensorFlow loads it."""

import os
import stat

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from keras_moco.errors import UserError
from keras_moco.trust.graph import foreign_operation

PROGRAM = "saved_model.pb"
# TensorFlow would load these instead of the program, or beside it.
OTHER_PROGRAMS = {"saved_model.pbtxt", "saved_model.cpb"}
LARGEST = 2**31 - 1  # bytes of a protobuf message
MOST_FILES = 10_000
# The objects of a network: values, functions and containers. Others create tables, open files, or become instances of
# registered Python classes.
OBJECTS = {"user_object", "variable", "function", "bare_concrete_function", "constant", "captured_tensor"}
CONTAINERS = {"_generic_user_object", "signature_map"}
CONTAINERS |= {f"trackable_{kind}_wrapper" for kind in ("list", "dict", "tuple")}

CONSTANT = ("constant", "tf.TrackableConstant")  # the one Python class among values


def check_saved_model(path, trusted):
    """Refuses a SavedModel that the user does not trust, or that does anything but compute with its variables.

    Its graph runs when it is loaded and called, and TensorFlow has operations that read and write files and call
    Python. This check runs nothing: it parses the file, and searches all its functions for such operations.

    Args:
        path: `pathlib.Path` of the folder.
        trusted: bool, whether the user trusts its source.

    Raises:
        ValueError: if it is not trusted, is damaged, refers to files outside its folder, or has such an operation.
    """
    if not trusted:
        raise UserError(
            "A SavedModel must come from a source you trust, since it is a program that runs when it is opened. "
            f"Received: {path}. Use the .keras file that was exported beside it, which only describes layers, or set "
            "trust_saved_model=True (--trust_saved_model) if you trust it."
        )
    _check_folder(path)
    program, model = path / PROGRAM, saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(program.read_bytes())
    except DecodeError as error:
        raise UserError(
            f"A SavedModel must be complete. Received: {program}, which is damaged or something else: {error}. "
            "Export it again."
        ) from error
    if found := _foreign(model):
        raise UserError(
            "A SavedModel must only compute with its own variables. "
            f"Received: {program} with {found}; nothing of it was run. Use a .keras file of the model instead."
        )


def _check_folder(path):
    """Refuses links, pipes and devices in the folder, a second program, and a program too large to be parsed."""
    number = 0
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            number += 1
            place = os.path.join(folder, name)
            status = os.lstat(place)
            is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
            if not is_plain or name in OTHER_PROGRAMS or number > MOST_FILES or name == PROGRAM and folder != str(path):
                raise UserError(
                    f"A SavedModel must be a folder of plain files, {PROGRAM} and its variables. "
                    f"Received: {place}. Copy the folder without it, and with what links point to (cp -rL)."
                )
            if name == PROGRAM and status.st_size > LARGEST:
                raise UserError(
                    f"{PROGRAM} must be smaller than 2 GiB to be read. "
                    f"Received: {place} of {status.st_size:,} bytes. Export the model again."
                )


def _foreign(model):
    """What a program has that no export of a network needs, in words; empty if it has nothing such."""
    # For other files TensorFlow uses an older loader, which runs operations of the graph outside of functions.
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        return "another number of graphs than one of TensorFlow 2"
    graph = model.meta_graphs[0]
    if graph.asset_file_def or "saved_model_assets" in graph.collection_def:
        return "files beside its variables"
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind is not None and kind not in OBJECTS:
            return f"an object of the kind {kind}"
        if kind == "user_object" and node.user_object.identifier not in CONTAINERS:
            return f"an object {node.user_object.identifier}"
        named = node.registered_name if (kind, node.registered_name) != CONSTANT else ""
        if named or node.registered_saver or node.saveable_objects:
            return "an object that saves and loads itself"
    return foreign_operation(graph)
