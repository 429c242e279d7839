"""Building a recipe: running its plan, emitting, measuring."""
