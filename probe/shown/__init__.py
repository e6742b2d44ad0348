"""Shown text is text: the one terminal, and what is escaped for it, for Markdown and for spreadsheets."""
