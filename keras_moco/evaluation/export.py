"""The export of the backbone as SavedModel and .keras file, again."""

from keras_moco.export import export_backbone

SETTINGS = ()


def run(target):
    """`evaluate.py export`: into the folder of the model card."""
    folder = export_backbone(target.encoder, target.output.card.parent, target.value_range)
    print(f"exported to {folder}")
