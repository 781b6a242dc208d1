"""Where a run's numbers go besides its folder: W&B, the progress display and the closing table."""
