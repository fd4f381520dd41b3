"""This package's version. It speaks tandem.v1, whatever the server's version is."""

VERSION = "0.1.0"
