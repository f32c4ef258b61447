"""Calls of tools in what models say: a file for each way of saying them; ``registry`` picks."""
