"""Training loops: Lightning around plain modules."""
