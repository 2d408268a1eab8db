"""``python -m kernelry_mcp`` is the same as ``kernelry``."""

from kernelry_mcp.command import main

if __name__ == "__main__":
    main()
