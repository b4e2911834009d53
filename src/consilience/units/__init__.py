"""The ground floor: the layers of any network, their symmetries, hyperplanes and activations."""
