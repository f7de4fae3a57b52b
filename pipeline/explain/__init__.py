"""Why a model answers as it does: which regions and which words, and how far to trust that."""
