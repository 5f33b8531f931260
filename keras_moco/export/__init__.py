"""Export of a trained backbone for use without this package."""

from keras_moco.export.backbone import export_backbone
from keras_moco.export.standalone import standalone_backbone

__all__ = ["export_backbone", "standalone_backbone"]
