"""Where a run's numbers go besides its folder: W&B, the progress display and the closing table."""

from dfl_ray.tracking.tracker import NullTracker, Tracker, make_tracker

__all__ = ["NullTracker", "Tracker", "make_tracker"]
