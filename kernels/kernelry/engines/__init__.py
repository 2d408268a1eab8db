"""Where kernels run, and how we talk to them."""
