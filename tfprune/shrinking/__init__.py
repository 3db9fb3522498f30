"""`prune` and `fit_and_shrink`: small models from dense ones, in one call or during training."""
