"""The in-place engine: DID and SAID over any `nn.Module`, its layout, and its file."""
