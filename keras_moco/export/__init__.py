"""Export of a trained backbone for use without this package."""

from keras_moco.export.backbone import export_backbone, standalone_backbone

__all__ = ["export_backbone", "standalone_backbone"]
