"""Local actors beside their peers: `python -m benchmarks.actors.run` from the checkout. README.md has the details."""
