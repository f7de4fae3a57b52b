"""What frozen encoders give, kept on disk."""
