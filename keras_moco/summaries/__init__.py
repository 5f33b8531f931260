"""What a run shows besides metrics and curves: plots, pages in TensorBoard, and its last lines."""
