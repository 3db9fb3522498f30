"""Quantization-aware training: a model is trained with the rounding of int8."""
