"""Which units of a model are coupled: model -> trace -> labels -> units."""
