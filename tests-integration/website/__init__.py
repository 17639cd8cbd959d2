"""The built site, looked at in a browser; and what docstrings say."""
