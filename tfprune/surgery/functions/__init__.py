"""Single edits of models. Each function returns the model of a plan with one edit."""
