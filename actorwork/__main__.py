"""`python -m actorwork` is the command `actorwork`."""

from actorwork.cli import main

if __name__ == "__main__":
    main()
