"""Training of large bases on a GPU: unmerged adapters in low precision, forward and backward written out."""
