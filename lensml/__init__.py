"""LensML: finds strong gravitational lenses in survey cutouts."""
