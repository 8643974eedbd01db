"""How a picture was made, as far as its file or its graph tells for certain."""
