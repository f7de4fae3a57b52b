"""The model, its configuration, its processor, and its folder on disk."""
