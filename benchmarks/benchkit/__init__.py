"""The bench's own parts: none of them imports a peer, and only the standard library is needed to run them."""
