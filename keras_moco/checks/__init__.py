"""What must hold for numbers and images, in Python and inside a compiled graph."""
