"""Clusters of units and of samples: clusterers, trees, stability, spectra, partition indices."""
