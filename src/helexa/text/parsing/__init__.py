"""Reasoning spans and tool calls, recognised as they stream by."""
