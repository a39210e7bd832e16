"""Turns results into console text, JSON, Markdown, JUnit and HTML."""
