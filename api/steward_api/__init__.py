"""The contract between hub, operator and administrators. Imports nothing else of this project."""
