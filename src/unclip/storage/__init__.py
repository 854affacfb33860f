"""What lies on disk: weights, model folders, the Hub, and what belongs together."""
