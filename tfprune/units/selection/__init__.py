"""Which units go: rankings, budgets, and the best choice."""
