"""The fault matrix: each case of matrix.py injected for real."""
