"""The dialect of llama.cpp's server: its own completions, infilling, and what its clients ask of a server."""
