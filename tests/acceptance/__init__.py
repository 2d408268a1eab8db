"""Acceptance: every promise, kept by a real server to real clients."""
