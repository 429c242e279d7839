# A file for recipes to name; the checker never opens it.
