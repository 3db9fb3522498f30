"""Small models out of large ones: in one call, or while they train."""
