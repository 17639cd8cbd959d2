"""Each a small module: clstr itself, bare clients of its brokers, and other libraries."""
