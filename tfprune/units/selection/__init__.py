"""Selection of the units to remove: rankings, budget search and integer programs."""
