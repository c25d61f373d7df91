"""A package of the fake SGLang."""
