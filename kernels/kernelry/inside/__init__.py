"""What runs in the kernel's own interpreter.

These files are started by path in any interpreter that has ipykernel, as the package
``kernelry_inside``; they import the standard library and ipykernel (with what it brings)
and nothing else of ours, and nothing of ours imports them (tests/unit/test_house.py).
"""
