"""The MCP server of carrel; the library under it is the package ``carrel``."""
