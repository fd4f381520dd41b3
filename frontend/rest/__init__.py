"""The REST shim: one ASGI app over `frontend.api.Inference`; a file or a folder for each dialect."""
