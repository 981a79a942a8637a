"""The bench: `python -m benchmarks.bench` from the checkout. README.md has the details."""
