"""The bench: `python -m benchmarks.bench` from the checkout. README.md tells the rest."""
