"""Tokens in, tokens out: models, caches, scheduling and sampling on torch."""

import os

from helexa.engine.pages import prefer_large_pages

prefer_large_pages(os.environ)  # here, as it must be done before torch is used
