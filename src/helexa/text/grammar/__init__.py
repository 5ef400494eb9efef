"""Constrained output: answers that fit a JSON schema, and tool calls that must be made.

The parsing is llguidance's (MIT; Rust behind one abi3 wheel without dependencies). It was measured
beside xgrammar 0.2.8 on two shared x86 cores, with a vocabulary of 100 000 tokens:

=====================================  ==================  ====================================
..                                     llguidance 1.9.1    xgrammar 0.2.8
=====================================  ==================  ====================================
needs                                  nothing             torch, transformers, triton, tvm-ffi
wheels                                 Linux x86 and ARM,  Linux x86, macOS, Windows
                                       macOS, Windows
import                                 0.15 s              23 s (with torch and transformers)
compiling a schema of five properties  1.4 ms              4 s
mask of one token, median; mean        16 µs; 0.8 ms       4 µs; 4 ms
``not``, ``uniqueItems``               refused by name     taken, and not enforced
bounds of work and memory              given in numbers    none
=====================================  ==================  ====================================

It compiles lazily, so that a schema costs what the answer visits of it, and stops with an error at
any of its limits. ``schema.py`` refuses beforehand what is known to be costly, ``factory.py``
compiles on a thread with a deadline and keeps the result, ``mask.py`` follows one answer.
Nothing here is imported by a request without a grammar but ``request.py``, which reads the request.
"""
