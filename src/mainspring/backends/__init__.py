"""One folder for each engine; strangers to each other."""
