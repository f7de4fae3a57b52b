"""What is wrong with a dataset, before anybody trains on it."""
