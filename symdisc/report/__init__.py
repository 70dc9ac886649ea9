"""Writers: a catalog record in, text or a figure out. One module per form; ``content`` says what every report tells."""
