"""Actors on Trio, fed by Redis streams."""
