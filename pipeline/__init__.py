"""Pipeline: from raw pairs to predictions. Imports encoders and fusion; nothing is imported from it by them."""
