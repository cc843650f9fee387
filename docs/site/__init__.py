"""How the documentation is made; nothing here is a page."""
