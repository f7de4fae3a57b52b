"""Scenes, the shipped model, and `diptych demo`."""
