"""What a run shows besides metrics and curves: pictures, and pages in TensorBoard."""
