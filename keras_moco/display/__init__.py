"""What a run shows of itself, beside figures and curves: in TensorBoard, and in pictures that need no browser."""
