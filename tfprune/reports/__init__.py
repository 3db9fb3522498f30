"""Reports on models and their differences, as tables and plots."""
