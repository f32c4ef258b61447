"""Repetition, presence and frequency penalties, from what each choice has seen."""
