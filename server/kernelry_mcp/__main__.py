"""``python -m kernelry_mcp`` is the same as ``kernelry``."""

from kernelry_mcp.cli import main

if __name__ == "__main__":
    main()
