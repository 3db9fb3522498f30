"""What a model is, and what two differ in, as tables and pictures."""
