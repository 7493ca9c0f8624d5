"""Energy-based models as pure functions on torch.func."""
