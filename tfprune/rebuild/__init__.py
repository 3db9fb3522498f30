"""New models from a given one: other layer classes, fewer or more units, fewer calls."""
