"""How the mini model was made; `python jobs/mini/make_mini.py` runs it from the registries to the weights."""
