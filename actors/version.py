"""The version of Lavender, in one place."""

VERSION = "0.1.0"
