"""A whole table classified into a file or into parts."""
