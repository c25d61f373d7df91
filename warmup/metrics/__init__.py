"""Metrics of this project: one catalog of names, and values for it. What exports them is the caller's business."""
