"""Which units go under a budget: what is left would cost, what may go, and which of it does."""
