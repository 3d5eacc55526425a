"""Samples into batches: fetching, preparation, density maps, transforms, windows."""
