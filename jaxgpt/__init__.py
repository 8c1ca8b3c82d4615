"""Language models as pure JAX functions."""
