"""The engine: private."""
