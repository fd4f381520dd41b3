"""TGI's dialect: generate, whole or streamed, and what it says of itself."""
