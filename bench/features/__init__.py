"""Frozen networks from images to feature vectors, for distances between sets of images.

A value means nothing outside the features it was computed from: every network has an ``identity`` (what its file
hashes to, how images are prepared) that enters the protocol of the metrics.
"""
