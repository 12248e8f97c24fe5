"""Data sets: Megapixel MNIST and what it is made of."""
