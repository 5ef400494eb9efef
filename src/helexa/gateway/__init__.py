"""One endpoint over many neurons: routing, placement, keys, budgets, metering, metrics.

Decisions are pure functions over plain data (`fleet`, `catalogue`, `routing`, `placement`,
`translate`); what waits for a network or a disk is at the edge. It never touches an accelerator, a
weight file or a tokenizer, and knows neurons only over HTTP.
"""
