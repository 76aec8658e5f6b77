"""The in-place engine: DID and SAID over any `nn.Module`, its layout, its file, and a bank of tunes."""
