"""Describes a checkpoint in a few lines of text."""

import dataclasses

from keras_moco.convert import files
from keras_moco.convert.architecture import architecture_of
from keras_moco.convert.official import POINTER, QUEUE, canonical_tensors, counted_batches, notes_of, query_tensors
from keras_moco.convert.tensor_names import COUNTER
from keras_moco.methods import presets


def summary(path):
    """Describes network, queue, progress of training, and the settings that belong to the weights.

    Args:
        path: path of the file.

    Returns:
        str, lines of text.

    Raises:
        ValueError: if the file cannot be read safely, or holds no ResNet.
    """
    file = files.read(path)
    tensors = canonical_tensors(file)
    query, notes = query_tensors(tensors), notes_of(file)
    found = architecture_of(query, file.path, notes.get("stem"))
    dtypes = ", ".join(sorted({str(tensor.dtype) for name, tensor in query.items() if not name.endswith(COUNTER)}))
    lines = [f"network    {found.describe()}, images of {found.channels} channel(s), {dtypes}"]
    if QUEUE in tensors:
        pointer = tensors[POINTER].tolist() if POINTER in tensors else "none"
        lines.append(f"queue      {' x '.join(map(str, tensors[QUEUE].shape))}, one key per column; pointer {pointer}")
    batches = counted_batches(query, file.path)
    lines.append(f"trained    {file.epoch:,} epochs, {batches:,} batches by BatchNorm's counters")
    lines.append(f"optimizer  {f'state of {len(file.buffers)} parameters' if file.buffers else 'none'}")
    numbers = {**dataclasses.asdict(presets.closest(found.stem, found.head)), **notes}
    origin = "noted in the file" if notes else "not in the file; published for this stem and head"
    chosen = ", ".join(
        f"{name} {numbers[name]}" for name in ("momentum", "temperature", "mean", "std") if name in numbers
    )
    lines.append(f"numbers    {chosen} ({origin})")
    return "\n".join(lines)
