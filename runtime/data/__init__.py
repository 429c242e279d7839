"""The data sets of recipes: where they come from, how samples are batched and fitted to a model."""
