"""Tables, plots, files, threads and registries: helpers that know nothing of pruning."""
