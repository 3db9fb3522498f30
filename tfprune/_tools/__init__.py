"""Tables, plots, files and threads: what has nothing to do with pruning."""
