"""Image files with known metadata, made by Pillow and not by what is tested."""
