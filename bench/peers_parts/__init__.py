"""What ``bench/peers.py`` is made of. Imports nothing: some of it runs in llama.cpp's Python."""
