"""`python -m docs.drawings`: write the diagrams to `docs/pictures`."""

from pathlib import Path

from docs.drawings.diagrams import DIAGRAMS

PICTURES = Path(__file__).parents[1] / "pictures"

if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, draw in DIAGRAMS.items():
        (PICTURES / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
