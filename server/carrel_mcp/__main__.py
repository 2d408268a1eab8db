"""``python -m carrel_mcp`` is the same as ``carrel``."""

from carrel_mcp.cli import main

if __name__ == "__main__":
    main()
