"""What attackers run in sessions; each script is self-contained text, with common.py before it."""
