"""What draws the diagrams of the chapters: `python -m docs.drawings` (`just drawings`) writes them to `docs/pictures`.

    canvas      boxes, arrows and texts, and their SVG; a text that does not fit its box is an error
    diagrams    the diagrams, by the names of their files

They are 480 wide, so that their texts can be read on a telephone, and stand on a ground of their own, light or dark as
the reader's system is, since a picture does not know the colours of the page.
"""
