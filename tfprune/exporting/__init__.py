"""Exports models to disk: SavedModel, `.keras`, LiteRT and ONNX."""
