"""Numbers, tables and pages of text as people read them; knows nothing of models."""
