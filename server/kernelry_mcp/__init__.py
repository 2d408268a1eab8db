"""The MCP server of kernelry; the library under it is the package ``kernelry``."""
