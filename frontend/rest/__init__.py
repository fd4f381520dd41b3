"""The REST shim: one ASGI app over `frontend.api.Inference`; one file per endpoint of OpenAI's dialect."""
