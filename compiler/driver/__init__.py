"""`compile_recipe`: from a recipe on disk to models, measurements and reports on disk."""

from mopt.driver.compile import CompileOptions, RecipeError, compile_recipe

__all__ = ["CompileOptions", "RecipeError", "compile_recipe"]
