"""Tables and rows: any file, folder or dataset becomes pairs of an image and a text. No torch."""
