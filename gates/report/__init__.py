"""A verdict for its readers: text, Markdown, JSON, SARIF, advice, history."""
