"""Measures how well rain was removed: quality scores, temporal stability, residual rain and contact sheets."""
