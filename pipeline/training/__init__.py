"""Fine-tuning: from data and options to the folder of a run."""
